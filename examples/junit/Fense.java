// A stand-in for each test class: copy this file, and run  fense-admin exec -- mvn test  (or gradle test)
// It needs junit-jupiter and jackson-databind. For parallel classes, set in junit-platform.properties
// junit.jupiter.execution.parallel.enabled=true and ...parallel.mode.classes.default=concurrent
// Here, with Debian's packages: fense-admin exec --seed examples/seed.json -- examples/junit/run.sh
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;

class Fense implements AutoCloseable {
  private static final String INSTANCES = System.getenv("FENSE_STANDIN_URL") + "/instances";
  private static final String KEY = System.getenv("FENSE_API_KEY");
  private final HttpClient http = HttpClient.newHttpClient();
  private final JsonNode made;
  final String url, key;

  Fense(String name) {
    made = call("POST", INSTANCES, KEY, "{\"name\": \"" + name + "\"}");
    url = made.get("base_url").asText();
    key = made.get("api_key").asText();
  }

  /** Go back to the seed. */
  void reset() {
    call("POST", made.get("standin_url").asText() + "/reset", key, "");
  }

  void fail(String fault) {
    call("POST", made.get("standin_url").asText() + "/faults", key, fault);
  }

  /** What was sent; with wait_ms in the query, as soon as it has been sent. */
  JsonNode requests(String query) {
    return call("GET", made.get("standin_url").asText() + "/requests?" + query, key, "").get("requests");
  }

  @Override
  public void close() {
    call("DELETE", INSTANCES + "/" + made.get("id").asText(), KEY, "");
  }

  private JsonNode call(String method, String url, String key, String body) {
    var request = HttpRequest.newBuilder(URI.create(url)).header("x-api-key", key)
        .header("Content-Type", "application/json").method(method, BodyPublishers.ofString(body));
    try {
      var response = http.send(request.build(), BodyHandlers.ofString());
      if (response.statusCode() >= 400) throw new AssertionError(response + " " + response.body());
      return new ObjectMapper().readTree(response.body());
    } catch (java.io.IOException | InterruptedException error) {
      throw new AssertionError(error);
    }
  }
}
