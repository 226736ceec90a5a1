import com.google.gson.JsonParser;
import com.rabbitmq.client.AMQP;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.Return;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.HashMap;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.zip.CRC32;

import static java.nio.charset.StandardCharsets.UTF_8;

/**
 * Publishes events from standard input, one JSON object a line, each to the stream of its customer.
 *
 * <pre>
 * mvn -q dependency:copy-dependencies
 * java -cp 'lib/*' Publish.java amqp://till:secret@localhost:5672 64 < events.ndjson
 * </pre>
 */
public class Publish {
    static final int WINDOW = 1000; // messages on their way at once

    public static void main(String[] args) throws Exception {
        var factory = new ConnectionFactory();
        factory.setUri(args[0]);
        factory.setAutomaticRecoveryEnabled(false); // confirms that were lost with a connection would be waited for
        var shards = Long.parseLong(args[1]); // 0: the nodes find each event's
        var json = new AMQP.BasicProperties.Builder().contentType("application/json").deliveryMode(2).build();
        var channels = new HashMap<String, Channel>(); // by routing key: each stream needs one that no other stream is published on
        var returned = new ConcurrentLinkedQueue<Return>();

        try (var connection = factory.newConnection()) {
            var in = new BufferedReader(new InputStreamReader(System.in, UTF_8));
            var pending = 0;
            for (String line; (line = in.readLine()) != null; ) {
                var customer = JsonParser.parseString(line).getAsJsonObject().get("customer_id").getAsString();
                var sum = new CRC32();
                sum.update(customer.getBytes(UTF_8));
                var key = shards > 0 ? Long.toString(sum.getValue() % shards) : "";
                var channel = channels.get(key);
                if (channel == null) {
                    channel = connection.createChannel();
                    channel.confirmSelect();
                    channel.addReturnListener(returned::add); // called before the message's confirm counts
                    channels.put(key, channel);
                }
                channel.basicPublish("footfall.events", key, true, json, line.getBytes(UTF_8));
                if (++pending % WINDOW == 0) settle(channels.values());
            }
            settle(channels.values());
        }
        if (!returned.isEmpty()) {
            System.err.println("came back: " + new String(returned.peek().getBody(), UTF_8));
            System.exit(1);
        }
    }

    /** Throws where the broker refused a message. */
    static void settle(Iterable<Channel> channels) throws Exception {
        for (var channel : channels) channel.waitForConfirmsOrDie();
    }
}
