import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import java.io.IOException;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

class UsageTest {
  static final Fense fense = new Fense("UsageTest.java");
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
  void lookupsAreAddedUp() throws Exception {
    assertEquals(19, billing.lookups(1));
  }

  @Test
  void anUnknownAccountIsAnError() {
    var error = assertThrows(IOException.class, () -> billing.lookups(99));
    assertEquals("Fense returned 404", error.getMessage());
  }
}
