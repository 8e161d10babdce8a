// Follows the Workload API with java-spiffe, unchanged, and prints what it hears, one line an event: `set` is a message of the
// stream with every SVID in it. On the words in its input it prints `source`, what an X509Source hands out; `fetched`, the
// answer to a question of its own; `token`, a JWT-SVID that was verified against the JWT bundle and by the agent; or `refused`.

import io.grpc.Status;
import io.spiffe.svid.jwtsvid.JwtSvid;
import io.spiffe.svid.x509svid.X509Svid;
import io.spiffe.workloadapi.DefaultWorkloadApiClient;
import io.spiffe.workloadapi.DefaultX509Source;
import io.spiffe.workloadapi.Watcher;
import io.spiffe.workloadapi.WorkloadApiClient;
import io.spiffe.workloadapi.X509Context;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.time.Duration;
import java.util.Collections;
import java.util.logging.LogManager;
import java.util.stream.Collectors;

public final class Client {
    private static final Duration ANSWER_MAX = Duration.ofSeconds(30);

    private static String shown(X509Svid svid) {
        return svid.getSpiffeId() + "=" + svid.getChain().get(0).getSerialNumber().toString(16);
    }

    private static String shown(String word, X509Context context) {
        return word + context.getX509Svids().stream().map(svid -> " " + shown(svid)).sorted().collect(Collectors.joining());
    }

    private static synchronized void say(String line) {
        System.out.println(line);
    }

    private static String token(WorkloadApiClient client, String audience) throws Exception {
        JwtSvid svid = client.fetchJwtSvid(audience);
        JwtSvid.parseAndValidate(svid.getToken(), client.fetchJwtBundles(), Collections.singleton(audience));
        JwtSvid valid = client.validateJwtSvid(svid.getToken(), audience);
        return "token " + valid.getSpiffeId() + "=" + String.join(",", valid.getAudience());
    }

    private static String answer(String[] words, DefaultX509Source source, WorkloadApiClient client) {
        try {
            switch (words[0]) {
                case "source":
                    return "source " + shown(source.getX509Svid());
                case "jwt":
                    return token(client, words[1]);
                default:
                    return shown("fetched", client.fetchX509Context());
            }
        } catch (Exception error) {
            return "refused " + Status.fromThrowable(error);
        }
    }

    public static void main(String[] words) throws Exception {
        LogManager.getLogManager().reset();
        String address = "unix:" + words[0];
        DefaultX509Source source = DefaultX509Source.newSource(DefaultX509Source.X509SourceOptions.builder()
                .spiffeSocketPath(address).initTimeout(ANSWER_MAX).build());
        WorkloadApiClient client = DefaultWorkloadApiClient.newClient(
                DefaultWorkloadApiClient.ClientOptions.builder().spiffeSocketPath(address).build());
        client.watchX509Context(new Watcher<X509Context>() {
            @Override
            public void onUpdate(X509Context context) {
                say(shown("set", context));
            }

            @Override
            public void onError(Throwable error) {
                say("ended " + Status.fromThrowable(error));
            }
        });
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in));
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            say(answer(line.split(" "), source, client));
        }
        System.exit(0);
    }
}
