import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;

/** The code under test: it stops billing, and tries again when Fense is down for a moment. */
class Billing {
  private final HttpClient http = HttpClient.newHttpClient();
  private final ObjectMapper json = new ObjectMapper();
  private final String url, key;

  Billing(String url, String key) {
    this.url = url;
    this.key = key;
  }

  JsonNode create(String apiKey, String name, String email) throws Exception {
    var account = json.createObjectNode().put("api_key", apiKey).put("name", name).put("email", email);
    return call("/accounts", account);
  }

  JsonNode stop(int id) throws Exception {
    return call("/accounts/" + id, json.createObjectNode().put("suppress_billing", true));
  }

  int lookups(int id) throws Exception {
    return call("/accounts/usage/" + id, null).get("total_lookups").asInt();
  }

  private JsonNode call(String path, JsonNode body) throws Exception {
    var request = HttpRequest.newBuilder(URI.create(url + path)).header("x-api-key", key);
    if (body != null) {
      request.header("Content-Type", "application/json").POST(BodyPublishers.ofString(body.toString()));
    }
    for (int tries = 1; ; tries++) {
      var response = http.send(request.build(), BodyHandlers.ofString());
      if (response.statusCode() == 503 && tries < 3) continue;
      if (response.statusCode() >= 400) throw new IOException("Fense returned " + response.statusCode());
      return json.readTree(response.body());
    }
  }
}
