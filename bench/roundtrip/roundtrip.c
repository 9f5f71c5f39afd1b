/*
 * The round trip of a transaction with one amqp.publish(), in C: the same bytes at the same moment.
 *
 * bench.roundtrip(port int, handshake bytea, message bytea) RETURNS boolean
 *
 * The first call of a session connects and logs in with bytes that were made beforehand. Every call
 * takes a message, which is sent when the transaction has committed; then its confirm is awaited.
 * There is nothing here that a program for use would need besides: no encoding, no settings, no
 * savepoints, no waits that could be interrupted. So nothing that does the same work costs less.
 *
 * bench.ask(port int, handshake bytea, request bytea) RETURNS bytea
 *
 * The same for a call of amqp.request(): the request is sent at once, and the body of the next
 * message that is delivered is returned. A session calls one of the two.
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "access/xact.h"
#include "fmgr.h"

PG_MODULE_MAGIC;
PG_FUNCTION_INFO_V1(roundtrip);
PG_FUNCTION_INFO_V1(ask);

/* Frames of AMQP 0-9-1, section 4.2.3: type, channel and size; the method's class and number. */
#define FRAME_HEADER 7
#define ACK_SIZE 21
#define LARGEST 65536
#define FRAME_BODY 3
#define SELECT_OK 85, 11
#define CONSUME_OK 60, 21
#define ACK 60, 80

static int	broker = -1;
static bool lost = false;		/* whether the broker has failed to confirm */
static char pending[LARGEST];	/* the message of this transaction */
static size_t pending_size = 0;

static bool
send_all(const char *bytes, size_t size)
{
	while (size > 0)
	{
		ssize_t		sent = send(broker, bytes, size, MSG_NOSIGNAL);

		if (sent < 0 && errno == EINTR)
			continue;
		if (sent <= 0)
			return false;
		bytes += sent;
		size -= sent;
	}
	return true;
}

static bool
receive_all(unsigned char *bytes, size_t size)
{
	while (size > 0)
	{
		ssize_t		received = recv(broker, bytes, size, 0);

		if (received < 0 && errno == EINTR)
			continue;
		if (received <= 0)
			return false;
		bytes += received;
		size -= received;
	}
	return true;
}

static bool
is_method(const unsigned char *payload, int class_id, int method)
{
	return payload[1] == class_id && payload[3] == method;
}

/* Read a frame: its kind, or 0 if there is none; the payload is followed by the octet that ends it. */
static int
next_frame(unsigned char *payload, uint32 *size)
{
	unsigned char head[FRAME_HEADER];

	if (!receive_all(head, FRAME_HEADER))
		return 0;
	*size = (uint32) head[3] << 24 | head[4] << 16 | head[5] << 8 | head[6];
	return *size < LARGEST && receive_all(payload, *size + 1) ? head[0] : 0;
}

/* Read what the broker answers to the handshake, up to the last answer. */
static bool
logged_in(int class_id, int method)
{
	static unsigned char payload[LARGEST];
	uint32		size;

	do
	{
		if (!next_frame(payload, &size))
			return false;
	} while (!is_method(payload, class_id, method));
	return true;
}

static void
connect_to_broker(int port, const char *handshake, size_t size, int class_id, int method)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
	int			yes = 1;

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	broker = socket(AF_INET, SOCK_STREAM, 0);
	if (broker < 0
		|| connect(broker, (struct sockaddr *) &address, sizeof address) != 0
		|| setsockopt(broker, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes) != 0
		|| !send_all(handshake, size)
		|| !logged_in(class_id, method))
		ereport(FATAL, errmsg("no connection to the broker at port %d", port));
}

static void
at_end(XactEvent event, void *arg)
{
	unsigned char ack[ACK_SIZE];

	(void) arg;
	if (event == XACT_EVENT_COMMIT && pending_size > 0
		&& !(send_all(pending, pending_size) && receive_all(ack, ACK_SIZE)
			 && is_method(ack + FRAME_HEADER, ACK)))
	{
		/* The transaction is committed: an ERROR would be a PANIC. The next call says it louder. */
		ereport(WARNING, errmsg("the message was not confirmed"));
		lost = true;
	}
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT)
		pending_size = 0;
}

Datum
roundtrip(PG_FUNCTION_ARGS)
{
	bytea	   *handshake = PG_GETARG_BYTEA_PP(1);
	bytea	   *message = PG_GETARG_BYTEA_PP(2);

	if (broker < 0)
	{
		connect_to_broker(PG_GETARG_INT32(0), VARDATA_ANY(handshake),
						  VARSIZE_ANY_EXHDR(handshake), SELECT_OK);
		RegisterXactCallback(at_end, NULL);
	}
	if (lost)
		ereport(FATAL, errmsg("an earlier message was not confirmed"));
	if (pending_size > 0 || VARSIZE_ANY_EXHDR(message) > sizeof pending)
		ereport(ERROR, errmsg("one small message in a transaction"));
	pending_size = VARSIZE_ANY_EXHDR(message);
	memcpy(pending, VARDATA_ANY(message), pending_size);
	PG_RETURN_BOOL(true);
}

Datum
ask(PG_FUNCTION_ARGS)
{
	static unsigned char payload[LARGEST];
	bytea	   *handshake = PG_GETARG_BYTEA_PP(1);
	bytea	   *request = PG_GETARG_BYTEA_PP(2);
	bytea	   *reply;
	uint32		size;
	int			kind;

	if (broker < 0)
		connect_to_broker(PG_GETARG_INT32(0), VARDATA_ANY(handshake),
						  VARSIZE_ANY_EXHDR(handshake), CONSUME_OK);
	if (!send_all(VARDATA_ANY(request), VARSIZE_ANY_EXHDR(request)))
		ereport(FATAL, errmsg("the broker is gone"));
	/* Basic.Deliver, the content header, and a body of one frame. */
	do
	{
		kind = next_frame(payload, &size);
		if (kind == 0)
			ereport(FATAL, errmsg("the broker is gone"));
	} while (kind != FRAME_BODY);
	reply = palloc(VARHDRSZ + size);
	SET_VARSIZE(reply, VARHDRSZ + size);
	memcpy(VARDATA(reply), payload, size);
	PG_RETURN_BYTEA_P(reply);
}
