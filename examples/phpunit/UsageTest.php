<?php

require_once __DIR__ . '/Billing.php';
require_once __DIR__ . '/Fense.php';

final class UsageTest extends PHPUnit\Framework\TestCase
{
    private static Fense $fense;
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

    public function testLookupsAreAddedUp(): void
    {
        $this->assertSame(19, $this->billing->lookups(1));
    }

    public function testAnUnknownAccountIsAnError(): void
    {
        $this->expectExceptionMessage('404');
        $this->billing->lookups(99);
    }
}
