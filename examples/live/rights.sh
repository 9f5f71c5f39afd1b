# What the page's user may do in RabbitMQ: have queues of its own, read the changes, ask questions.
rabbitmqctl add_user live_page live_page
rabbitmqctl set_permissions -p / live_page '^(stomp-subscription-|amq\.gen-)' '^(stomp-subscription-.*|live\.questions)$' '^(stomp-subscription-.*|amq\.gen-.*|live\.changes)$'
rabbitmqctl set_topic_permissions -p / live_page live.changes '^$' '^orders\.'
rabbitmqctl set_user_limits live_page '{"max-connections": 1000, "max-channels": 1000}'
