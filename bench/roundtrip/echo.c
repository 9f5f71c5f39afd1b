/*
 * Answers whatever comes into a queue with its own body: as fast as anybody could.
 *
 * echo PORT HANDSHAKE
 *
 * The handshake, in hexadecimal digits, ends with a Basic.Consume that needs no acknowledgement.
 * A request has correlation_id, reply_to and expiration, and no other property, as those have that
 * are measured; its body takes one frame.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Frames of AMQP 0-9-1, section 4.2.3. */
#define METHOD 1
#define HEADER 2
#define BODY 3
#define FRAME_HEADER 7
#define LARGEST (1 << 20)
/* Where in a content header the body's size and the first property are. */
#define SIZE 4
#define PROPERTIES 14

static int	broker;
static unsigned char payload[LARGEST];
static unsigned char answer[LARGEST * 2];
static size_t answered;

static void
leave(const char *why)
{
	fprintf(stderr, "%s\n", why);
	exit(1);
}

static void
send_all(const unsigned char *bytes, size_t size)
{
	while (size > 0)
	{
		ssize_t		sent = send(broker, bytes, size, MSG_NOSIGNAL);

		if (sent <= 0)
			leave("the broker takes nothing");
		bytes += sent;
		size -= sent;
	}
}

static void
receive_all(unsigned char *bytes, size_t size)
{
	while (size > 0)
	{
		ssize_t		received = recv(broker, bytes, size, 0);

		if (received <= 0)
			leave("the broker is gone");
		bytes += received;
		size -= received;
	}
}

static int
next_frame(uint32_t *size)
{
	unsigned char head[FRAME_HEADER];

	receive_all(head, FRAME_HEADER);
	*size = (uint32_t) head[3] << 24 | head[4] << 16 | head[5] << 8 | head[6];
	if (*size >= LARGEST)
		leave("a frame is too large");
	receive_all(payload, *size + 1);
	return head[0];
}

static void
put(const void *bytes, size_t size)
{
	memcpy(answer + answered, bytes, size);
	answered += size;
}

static void
put_frame(int kind, uint32_t size)
{
	unsigned char head[FRAME_HEADER] = {kind, 0, 1, size >> 24, size >> 16, size >> 8, size};

	put(head, FRAME_HEADER);
}

/* Basic.Publish to the queue reply_to, with the request's id; the header waits for the body. */
static void
begin_answer(void)
{
	const unsigned char *id = payload + PROPERTIES;
	const unsigned char *reply_to = id + 1 + *id;

	answered = 0;
	put_frame(METHOD, 4 + 2 + 1 + 1 + *reply_to + 1);
	put("\0\x3c\0\x28\0\0\0", 7);
	put(reply_to, 1 + *reply_to);
	put("\0\xce", 2);
	put_frame(HEADER, PROPERTIES + 1 + *id);
	put("\0\x3c\0\0", 4);
	put(payload + SIZE, 8);
	put("\x04\0", 2);
	put(id, 1 + *id);
	put("\xce", 1);
}

static unsigned char *
bytes_of(const char *digits, size_t *size)
{
	unsigned char *bytes;

	*size = strlen(digits) / 2;
	bytes = malloc(*size);
	for (size_t at = 0; at < *size; at++)
		sscanf(digits + 2 * at, "%2hhx", bytes + at);
	return bytes;
}

int
main(int count, char **arguments)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	unsigned char *handshake;
	size_t		length;
	int			yes = 1;

	if (count != 3)
		leave("usage: echo PORT HANDSHAKE");
	address.sin_port = htons(atoi(arguments[1]));
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	handshake = bytes_of(arguments[2], &length);
	broker = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(broker, (struct sockaddr *) &address, sizeof address) != 0
		|| setsockopt(broker, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes) != 0)
		leave("no connection to the broker");
	send_all(handshake, length);
	for (;;)
	{
		uint32_t	size;
		int			kind = next_frame(&size);

		if (kind == HEADER)
			begin_answer();
		else if (kind == BODY)
		{
			put_frame(BODY, size);
			put(payload, size + 1);
			send_all(answer, answered);
		}
	}
}
