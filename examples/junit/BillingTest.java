import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.util.concurrent.ForkJoinPool;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

class BillingTest {
  static final Fense fense = new Fense("BillingTest.java"); // this file's own
  final Billing billing = new Billing(fense.url, fense.key);

  @BeforeEach
  void reset() {
    fense.reset();
  }

  @AfterAll
  static void end() {
    fense.close();
  }

  @Test
  void billingIsStopped() throws Exception {
    assertTrue(billing.stop(1).get("suppress_billing").asBoolean());
    assertEquals("{\"suppress_billing\":true}", fense.requests("").at("/0/body").asText());
  }

  @Test
  void retriesWhileFenseIsDown() throws Exception {
    fense.fail("{\"status\": 503, \"times\": 2}");
    billing.stop(1);
    assertEquals(3, fense.requests("").size());
  }

  @Test
  void anAccountIsNotCreatedAgainWhenTheResponseIsLost() {
    fense.fail("{\"path\": \"/accounts\", \"drop\": \"reset\", \"after\": true}");
    assertThrows(IOException.class, () -> billing.create("sk_test_gamma_0003", "Gamma", "owner@gamma.example"));
    assertEquals(1, fense.requests("").size());
    assertEquals(201, fense.requests("").at("/0/handled").asInt());
  }

  @Test
  void billingIsStoppedInTheBackground() {
    ForkJoinPool.commonPool().submit(() -> billing.stop(1));
    assertEquals(1, fense.requests("method=POST&path=/accounts/1&wait_ms=2000").size());
  }
}
