<?php

require_once __DIR__ . '/Billing.php';
require_once __DIR__ . '/Fense.php';

final class BillingTest extends PHPUnit\Framework\TestCase
{
    private static Fense $fense; // this file's own
    private Billing $billing;

    public static function setUpBeforeClass(): void
    {
        self::$fense = new Fense(__FILE__);
    }

    public static function tearDownAfterClass(): void
    {
        self::$fense->end();
    }

    protected function setUp(): void
    {
        self::$fense->reset();
        $this->billing = new Billing(self::$fense->url, self::$fense->key);
    }

    public function testBillingIsStopped(): void
    {
        $this->assertTrue($this->billing->stop(1)['suppress_billing']);
        $this->assertSame('{"suppress_billing":true}', self::$fense->requests()[0]['body']);
    }

    public function testRetriesWhileFenseIsDown(): void
    {
        self::$fense->fail(['status' => 503, 'times' => 2]);
        $this->billing->stop(1);
        $this->assertSame([503, 503, 200], array_column(self::$fense->requests(), 'status'));
    }

    public function testAnAccountIsNotCreatedAgainWhenTheResponseIsLost(): void
    {
        self::$fense->fail(['path' => '/accounts', 'drop' => 'reset', 'after' => true]);
        try {
            $this->billing->create('sk_test_gamma_0003', 'Gamma', 'owner@gamma.example');
        } catch (RuntimeException) {
        }
        $this->assertSame([201], array_column(self::$fense->requests(), 'handled'));
    }

    public function testBillingIsStoppedInTheBackground(): void
    {
        $worker = [PHP_BINARY, __DIR__ . '/worker.php', self::$fense->url, self::$fense->key, '1'];
        $process = proc_open($worker, [], $pipes);
        $query = 'method=POST&path=/accounts/1&wait_ms=2000';
        $this->assertCount(1, self::$fense->requests($query));
        proc_close($process);
    }
}
