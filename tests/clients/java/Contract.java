// The contract, called by a client that openapi-generator makes of openapi.json.
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.time.LocalDate;
import java.util.Map;
import java.util.UUID;
import org.openapitools.client.ApiClient;
import org.openapitools.client.ApiException;
import org.openapitools.client.api.AccountsApi;
import org.openapitools.client.api.ServiceApi;
import org.openapitools.client.api.UsageApi;
import org.openapitools.client.model.Account;
import org.openapitools.client.model.AccountCreate;
import org.openapitools.client.model.AccountTotal;
import org.openapitools.client.model.AccountUpdate;
import org.openapitools.client.model.AccountUsage;
import org.openapitools.client.model.AllUsage;
import org.openapitools.client.model.DailyLookups;
import org.openapitools.client.model.ErrorDetail;
import org.openapitools.client.model.ErrorResponse;
import org.openapitools.client.model.OpenapiDocument;

public class Contract {
  interface Call {
    void run() throws ApiException;
  }

  static ApiClient withKey(String key) {
    ApiClient client = new ApiClient();
    client.updateBaseUri(System.getenv("FENSE_BASE_URL"));
    client.setRequestInterceptor(request -> request.header("x-api-key", key));
    return client;
  }

  static void show(Account account) {
    System.out.println(account.getFenseAccountId() + " " + account.getName() + " " + account.getEmail()
        + " " + account.getSuppressNotifications() + " " + account.getSuppressBilling() + " "
        + account.getIsActive() + " " + account.getApiKeyLast4() + " " + account.getDisputeAccountId()
        + " " + account.getCreatedAt().toInstant() + " " + account.getUpdatedAt().toInstant());
  }

  static void showUsage(AccountUsage usage) {
    System.out.print(usage.getFenseAccountId() + " " + usage.getStartDate() + " " + usage.getEndDate()
        + " " + usage.getDisputeAccountId() + " " + usage.getTotalLookups());
    for (DailyLookups day : usage.getDaily()) {
      System.out.print(" " + day.getDate() + "=" + day.getLookups());
    }
    System.out.println();
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
    ApiClient client = withKey(System.getenv("FENSE_API_KEY"));
    AccountsApi accounts = new AccountsApi(client);
    // Unless it refuses unknown fields, it can't tell the usage of one account from that of all.
    ObjectMapper strict = ApiClient.createDefaultObjectMapper();
    strict.enable(DeserializationFeature.FAIL_ON_UNKNOWN_PROPERTIES);
    UsageApi usage = new UsageApi(withKey(System.getenv("FENSE_API_KEY")).setObjectMapper(strict));
    ServiceApi service = new ServiceApi(client);

    show(accounts.getAccount(1L));
    show(accounts.getAccount(4294967296L));

    AccountCreate body = new AccountCreate()
        .apiKey("sk_test_client_0001")
        .name("Gamma")
        .email("owner@gamma.example")
        .disputeAccountId(UUID.fromString("6F1C2A6E-0C1D-4A55-9A3E-0D6F6F0F7D12"));
    Account created = accounts.createAccount(body);
    long id = created.getFenseAccountId();
    System.out.println(id + " " + created.getName() + " " + created.getDisputeAccountId());
    for (AccountUpdate change : new AccountUpdate[] {
        new AccountUpdate().name("Gamma Zürich").isActive(false), new AccountUpdate().suppressBilling(true)}) {
      Account updated = accounts.updateAccount(id, change);
      System.out.println(
          updated.getName() + " " + updated.getIsActive() + " " + updated.getDisputeAccountId());
    }

    LocalDate first = LocalDate.of(2026, 11, 1);
    showUsage(usage.getAccountUsage(1L, null, null, null));
    showUsage(usage.getAccountUsage(1L, first, first, null));
    showUsage(usage.getUsage(null, LocalDate.of(2026, 11, 30), 4294967296L).getAccountUsage());
    AllUsage all = usage.getUsage(null, null, null).getAllUsage();
    System.out.print(all.getStartDate() + " " + all.getEndDate() + " " + all.getTotalLookups());
    for (AccountTotal account : all.getAccounts()) {
      System.out.print(" " + account.getFenseAccountId() + "=" + account.getTotalLookups() + "/"
          + account.getDisputeAccountId());
    }
    System.out.println();

    showError(() -> accounts.createAccount(body));
    showError(() -> usage.getUsage(first, null, null));
    showError(() -> new AccountsApi(withKey("nobody's")).getAccount(1L));
    showError(() -> new AccountsApi(withKey("short-key")).getAccount(1L));
    showError(() -> accounts.getAccount(9007199254740991L));
    OpenapiDocument document = service.getOpenapi();
    System.out.println(service.getHealth().getStatus() + " " + document.getOpenapi() + " "
        + ((Map<?, ?>) document.getInfo()).get("title"));
  }
}
