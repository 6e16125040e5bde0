// Package billing is the code under test: it stops billing, and tries again when Fense is down for a moment.
package billing

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
)

type Client struct{ URL, Key string }

func (c Client) Create(apiKey, name, email string) error {
	return c.call("/accounts", map[string]any{"api_key": apiKey, "name": name, "email": email}, nil)
}

func (c Client) Stop(id int) error {
	return c.call(fmt.Sprintf("/accounts/%d", id), map[string]any{"suppress_billing": true}, nil)
}

func (c Client) Lookups(id int) (int, error) {
	var usage struct {
		Total int `json:"total_lookups"`
	}
	err := c.call(fmt.Sprintf("/accounts/usage/%d", id), nil, &usage)
	return usage.Total, err
}

func (c Client) call(path string, body, result any) error {
	method, text := "GET", []byte{}
	if body != nil {
		method = "POST"
		text, _ = json.Marshal(body)
	}
	for tries := 1; ; tries++ {
		request, err := http.NewRequest(method, c.URL+path, bytes.NewReader(text))
		if err != nil {
			return err
		}
		request.Header.Set("x-api-key", c.Key)
		request.Header.Set("Content-Type", "application/json")
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode == http.StatusServiceUnavailable && tries < 3 {
			continue
		}
		if response.StatusCode >= 400 {
			return fmt.Errorf("Fense returned %d", response.StatusCode)
		}
		if result == nil {
			return nil
		}
		return json.NewDecoder(response.Body).Decode(result)
	}
}
