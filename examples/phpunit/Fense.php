<?php
// A stand-in for each test file: copy this file, and run  fense-admin exec -- vendor/bin/phpunit
// or, in parallel,  fense-admin exec -- vendor/bin/paratest. Here, with Debian's phpunit and php-curl:
// fense-admin exec --seed examples/seed.json -- sh -c 'ls examples/phpunit/*Test.php | xargs -n 1 -P 2 phpunit --do-not-cache-result'

final class Fense
{
    public readonly string $url;
    public readonly string $key;
    private array $made;

    public function __construct(string $file)
    {
        $name = ['name' => basename($file)];
        $this->made = self::call('POST', self::instances(), getenv('FENSE_API_KEY'), $name);
        $this->url = $this->made['base_url'];
        $this->key = $this->made['api_key'];
    }

    public function reset(): void // to the seed
    {
        self::call('POST', "{$this->made['standin_url']}/reset", $this->key);
    }

    public function fail(array $fault): void
    {
        self::call('POST', "{$this->made['standin_url']}/faults", $this->key, $fault);
    }

    /** What was sent; with wait_ms in the query, as soon as it has been sent. */
    public function requests(string $query = ''): array
    {
        $url = "{$this->made['standin_url']}/requests?$query";
        return self::call('GET', $url, $this->key)['requests'];
    }

    public function end(): void
    {
        self::call('DELETE', self::instances() . "/{$this->made['id']}", getenv('FENSE_API_KEY'));
    }

    private static function instances(): string
    {
        return getenv('FENSE_STANDIN_URL') . '/instances';
    }

    private static function call(string $method, string $url, string $key, ?array $body = null): ?array
    {
        $curl = curl_init($url);
        curl_setopt_array($curl, [
            CURLOPT_CUSTOMREQUEST => $method,
            CURLOPT_RETURNTRANSFER => true,
            CURLOPT_HTTPHEADER => ["x-api-key: $key", 'Content-Type: application/json'],
        ] + ($body ? [CURLOPT_POSTFIELDS => json_encode($body)] : []));
        $text = curl_exec($curl);
        $status = curl_getinfo($curl, CURLINFO_RESPONSE_CODE);
        if ($text === false || $status >= 400) {
            throw new RuntimeException("$method $url: $status $text");
        }
        return json_decode($text, true);
    }
}
