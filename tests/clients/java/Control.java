// The control plane, called by a client that openapi-generator makes of standin/openapi.json.
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.time.OffsetDateTime;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.UUID;
import org.openapitools.client.ApiClient;
import org.openapitools.client.ApiException;
import org.openapitools.client.api.ClockApi;
import org.openapitools.client.api.FaultsApi;
import org.openapitools.client.api.InstancesApi;
import org.openapitools.client.api.JournalApi;
import org.openapitools.client.api.ServiceApi;
import org.openapitools.client.api.StateApi;
import org.openapitools.client.model.Clock;
import org.openapitools.client.model.ClockSent;
import org.openapitools.client.model.DayOrBefore;
import org.openapitools.client.model.ErrorDetail;
import org.openapitools.client.model.ErrorResponse;
import org.openapitools.client.model.Fault;
import org.openapitools.client.model.FaultSent;
import org.openapitools.client.model.FaultSentDelayMs;
import org.openapitools.client.model.InstanceCreated;
import org.openapitools.client.model.InstanceSent;
import org.openapitools.client.model.InstanceSentSeed;
import org.openapitools.client.model.LookupsSent;
import org.openapitools.client.model.RequestEntry;
import org.openapitools.client.model.State;
import org.openapitools.client.model.StateAccount;
import org.openapitools.client.model.StateAccountSent;
import org.openapitools.client.model.StateSent;

public class Control {
  interface Call {
    void run() throws ApiException;
  }

  static ApiClient withoutKey() {
    ApiClient client = new ApiClient();
    client.updateBaseUri(System.getenv("FENSE_STANDIN_URL"));
    return client;
  }

  static void showState(State state) {
    for (StateAccount account : state.getAccounts()) {
      System.out.print(account.getFenseAccountId() + " " + account.getName() + " "
          + account.getApiKeyLast4() + " " + account.getDisputeAccountId() + " "
          + account.getCreatedAt().toInstant());
      new TreeMap<>(account.getUsage()).forEach((day, lookups) -> System.out.print(" " + day + "=" + lookups));
      System.out.println();
    }
  }

  static void showError(Call call) throws Exception {
    try {
      call.run();
    } catch (ApiException error) {
      ErrorResponse told =
          new ApiClient().getObjectMapper().readValue(error.getResponseBody(), ErrorResponse.class);
      System.out.print(error.getCode() + " " + told.getError().getCode());
      for (ErrorDetail detail : told.getError().getDetails()) {
        System.out.print(" " + detail.getField() + ": " + detail.getMessage());
      }
      System.out.println();
    }
  }

  public static void main(String[] arguments) throws Exception {
    String key = System.getenv("FENSE_API_KEY");
    ApiClient client = withoutKey();
    client.setRequestInterceptor(request -> request.header("x-api-key", key));
    ClockApi clock = new ClockApi(client);
    StateApi state = new StateApi(client);
    FaultsApi faults = new FaultsApi(client);
    JournalApi journal = new JournalApi(client);
    InstancesApi instances = new InstancesApi(client);

    clock.setClock(new ClockSent().now("2026-11-30T23:59:58Z"));
    clock.setClock(new ClockSent().advanceSeconds(1L));
    Clock now = clock.getClock();
    System.out.println(now.getNow().toInstant() + " " + now.getStopped());

    StateSent sent = new StateSent()
        .addAccountsItem(new StateAccountSent()
            .name("Žluťoučký")
            .email("owner@beta.example")
            .apiKey("sk_test_client_0002")
            .fenseAccountId(4294967296L)
            .usage(Map.of("-1", 2147483648L)))
        .addAccountsItem(new StateAccountSent()
            .name("Gamma")
            .email("owner@gamma.example")
            .apiKey("short")
            .disputeAccountId(UUID.fromString("6f1c2a6e-0c1d-4a55-9a3e-0d6f6f0f7d11")));
    state.putState(sent);
    System.out.println(state.recordUsage(List.of(
        new LookupsSent().fenseAccountId(4294967296L).lookups(1000000000000L)
            .date(new DayOrBefore("2026-11-01")),
        new LookupsSent().fenseAccountId(4294967296L).lookups(1L).date(new DayOrBefore(-1))))
        .getRecorded());
    showState(state.getState());

    faults.armFault(new FaultSent().status(503).path("/accounts/*").message("zu spät")
        .headers(Map.of("Retry-After", "7")));
    faults.armFault(new FaultSent().drop(FaultSent.DropEnum.RESET).delayMs(new FaultSentDelayMs(1)).times(1000000000000L));
    for (String path : List.of("/accounts/1", "/accounts/1?x", "/nowhere")) {
      URI uri = URI.create(System.getenv("FENSE_BASE_URL") + path);
      HttpRequest request = HttpRequest.newBuilder(uri).header("x-api-key", key)
          .POST(BodyPublishers.ofString("{}")).build();
      try {
        HttpClient.newHttpClient().send(request, BodyHandlers.ofString());
      } catch (java.io.IOException dropped) {
        continue;
      }
    }
    for (Fault fault : faults.getFaults().getFaults()) {
      System.out.println(fault.getId() + " " + fault.getStatus() + " " + fault.getDrop() + " "
          + (fault.getTimes() > 999999000000L) + " " + (fault.getUsed() > 0));
    }
    for (RequestEntry entry : journal.getRequests(null, null, null, null, null).getRequests()) {
      System.out.println(entry.getMethod() + " " + entry.getPath() + " " + entry.getQuery() + " "
          + entry.getStatus() + " " + entry.getBody() + " "
          + (entry.getResponse() != null) + " " + (entry.getDurationMs() != null) + " "
          + entry.getFault() + " " + entry.getAt().isAfter(OffsetDateTime.now().minusMinutes(1)) + " "
          + !entry.getHeaders().isEmpty());
    }

    InstanceCreated made = instances.createInstance(new InstanceSent().seed(new InstanceSentSeed("demo")));
    instances.createInstance(new InstanceSent().seed(new InstanceSentSeed(sent)));
    instances.endInstance(made.getId());
    System.out.println(made.getId().length() + " " + !made.getApiKey().isEmpty() + " "
        + instances.getInstances().getInstances().size());

    showError(() -> faults.armFault(new FaultSent()));
    showError(() -> state.recordUsage(List.of(new LookupsSent().fenseAccountId(9L).lookups(1L))));
    showError(() -> new StateApi(withoutKey()).getState());
    System.out.println(new ServiceApi(client).getControlOpenapi().getOpenapi());
    faults.disarmFaults();
    journal.forgetRequests();
    clock.releaseClock();
    state.reset();
    System.out.println(state.getState().getAccounts().size());
  }
}
