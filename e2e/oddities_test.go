// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	_ "embed"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"
)

//go:embed testdata/oddities.yaml
var oddities string

// oddServer is the vendor's side. It turns away whatever its page does not describe, with status 200.
func oddServer(t *testing.T) *httptest.Server {
	t.Helper()
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	fault := func(w http.ResponseWriter, no int, text string) {
		_ = json.NewEncoder(w).Encode(fields{"result": "ERROR", "faults": []fields{{"no": no, "txt": text}}})
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body map[string]any
		text, _ := io.ReadAll(r.Body)
		realm := map[string]string{"/live/login": "live", "/test/login": "sandbox"}[r.URL.Path]
		_ = json.Unmarshal(text, &body) // a body that is none is turned away below
		rights, _ := body["rights"].([]any)
		want := map[string]any{"appNo": 4512.0, "pin": 3391.0, "realm": realm, "rights": body["rights"], "longSession": true}
		switch {
		case r.Method != http.MethodPost || realm == "" || !strings.HasPrefix(r.UserAgent(), "ShopClient/") || r.Header.Get("X-Shop-Id") != "HH-17":
			fault(w, 4000, "turned away")
		case r.Header.Get("X-App-Key") != "k-7f+/=: key" || body["pin"] != want["pin"]:
			fault(w, 4711, "unknown application or key")
		case !reflect.DeepEqual(body, want):
			fault(w, 4001, "members: "+string(text))
		case len(rights) == 0 || rights[0] == "refunds":
			fault(w, 4720, "right not granted")
		default:
			ends := time.Now().In(berlin).Add(2 * time.Hour).Format("2006-01-02 15:04:05")
			_ = json.NewEncoder(w).Encode(fields{"result": "OK", "payload": fields{"sessions": []fields{{
				"token": "session-" + realm, "merchant": "M-204", "validTill": ends,
			}}}})
		}
	}))
	t.Cleanup(server.Close)
	return server
}

// A definition of one page is enough for an endpoint with many differences at once.
func TestDefinition_ManyOddities(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	document := strings.ReplaceAll(oddities, "SERVER", oddServer(t).URL)
	w.Write(t, "providers/oddities", fields{"definition": document}).OK(t)
	config := fields{
		"provider": "oddities", "client_id": "4512", "client_secret": "k-7f+/=: key", "params": fields{"shop_id": "HH-17"},
		"secret_params": fields{"pin": "3391"},
	}
	w.NoteSecret("k-7f+/=: key", "session-live", "session-sandbox")
	w.Write(t, "config/wrong", with(config, fields{"client_secret": "another"})).
		Refused(t, http.StatusBadRequest, "oddities refused the client: invalid_client (HTTP 200): unknown application or key")
	w.Write(t, "config/wrong", with(config, fields{"secret_params": without})).Refused(t, http.StatusBadRequest, "secret_params: pin: is required")
	w.Write(t, "config/wrong", with(config, fields{"client_id": "45a"})).Refused(t, http.StatusBadRequest, "client_id: appNo: is not a number")

	w.Write(t, "config/live", config).OK(t)
	w.Write(t, "config/test", with(config, fields{"environment": "test"})).OK(t)
	w.Write(t, "roles/live/stock", fields{"scope": "stock,prices"}).OK(t)
	for path, token := range map[string]string{"live": "session-live", "test": "session-sandbox", "live/stock": "session-live"} {
		got := w.Read(t, "creds/"+path).OK(t)
		mustHave(t, got, fields{"access_token": token, "merchant": "M-204", "api_headers": fields{"X-Session": token, "X-Shop-Id": "HH-17"}})
		if got.LeaseDuration < 7000 || got.LeaseDuration > 7200 {
			t.Errorf("%s: a lease of %d s, want two hours", path, got.LeaseDuration)
		}
	}
	w.Write(t, "roles/live/refunds", fields{"scope": "refunds"}).OK(t)
	w.Read(t, "creds/live/refunds").Refused(t, http.StatusBadRequest, "invalid_scope", "right not granted")
}
