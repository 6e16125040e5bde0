<?php
// The code under test: it stops billing, and tries again when Fense is down for a moment.

final class Billing
{
    public function __construct(private string $url, private string $key)
    {
    }

    public function create(string $apiKey, string $name, string $email): array
    {
        return $this->call('/accounts', ['api_key' => $apiKey, 'name' => $name, 'email' => $email]);
    }

    public function stop(int $id): array
    {
        return $this->call("/accounts/$id", ['suppress_billing' => true]);
    }

    public function lookups(int $id): int
    {
        return $this->call("/accounts/usage/$id")['total_lookups'];
    }

    private function call(string $path, ?array $body = null, int $tries = 3): array
    {
        $curl = curl_init($this->url . $path);
        curl_setopt_array($curl, [
            CURLOPT_RETURNTRANSFER => true,
            CURLOPT_HTTPHEADER => ["x-api-key: $this->key", 'Content-Type: application/json'],
        ] + ($body ? [CURLOPT_POSTFIELDS => json_encode($body)] : []));
        $text = curl_exec($curl);
        $status = curl_getinfo($curl, CURLINFO_RESPONSE_CODE);
        if ($status === 503 && $tries > 1) {
            return $this->call($path, $body, $tries - 1);
        }
        if ($text === false || $status >= 400) {
            throw new RuntimeException("Fense returned $status " . curl_error($curl));
        }
        return json_decode($text, true);
    }
}
