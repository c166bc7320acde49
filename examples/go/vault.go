// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
)

// Token is an access token under a lease.
type Token struct {
	AccessToken string
	Headers     map[string]string // ready to be sent to the API
	Fingerprint string
	ReadAgain   time.Time // before the lease ends
	ExpiresAt   time.Time
}

// Vault reads and reports the tokens of one config or role. It logs in with an AppRole, and again whenever Vault no longer
// accepts its own token.
type Vault struct {
	client           *api.Client
	mount, path      string
	roleID, secretID string // files
}

// NewVault returns a Vault at the address in VAULT_ADDR. It does not log in yet.
func NewVault(mount, path, roleID, secretID string) (*Vault, error) {
	config := api.DefaultConfig() // also reads the environment
	if config.Error != nil {
		return nil, config.Error
	}
	config.Timeout = 20 * time.Second
	client, err := api.NewClient(config)
	if err != nil {
		return nil, err
	}
	client.ClearToken() // an operator's token in the environment must not be logged out
	return &Vault{client: client, mount: mount, path: path, roleID: roleID, secretID: secretID}, nil
}

// Read reads the current token.
func (v *Vault) Read(ctx context.Context) (*Token, error) {
	read := time.Now()
	secret, err := v.call(ctx, func() (*api.Secret, error) {
		return v.client.Logical().ReadWithContext(ctx, v.mount+"/creds/"+v.path)
	})
	if err != nil {
		return nil, err
	}
	for _, warning := range secret.Warnings {
		fmt.Fprintln(os.Stderr, "Vault warns:", warning)
	}
	token := &Token{Headers: make(map[string]string)}
	token.AccessToken, _ = secret.Data["access_token"].(string)
	token.Fingerprint, _ = secret.Data["token_fingerprint"].(string)
	headers, _ := secret.Data["api_headers"].(map[string]any)
	for name, value := range headers {
		token.Headers[name], _ = value.(string)
	}
	expiresAt, _ := secret.Data["expires_at"].(string)
	if token.ExpiresAt, err = time.Parse(time.RFC3339, expiresAt); err != nil {
		return nil, fmt.Errorf("expires_at: %w", err)
	}
	// The engine replaces a token in time, so there is a newer one at 85% of the lease.
	token.ReadAgain = read.Add(time.Duration(secret.LeaseDuration) * time.Second * 85 / 100)
	return token, nil
}

// Report reports a token that the API has refused. If it is still the current one, Vault mints another.
func (v *Vault) Report(ctx context.Context, token *Token) error {
	_, err := v.call(ctx, func() (*api.Secret, error) {
		return v.client.Logical().WriteWithContext(ctx, v.mount+"/rotate/"+v.path, map[string]any{"access_token": token.AccessToken})
	})
	return err
}

// LogOut revokes Vault's own token, and with it all leases.
func (v *Vault) LogOut() {
	if v.client.Token() == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := v.client.Auth().Token().RevokeSelfWithContext(ctx, ""); err != nil {
		fmt.Fprintln(os.Stderr, "log out:", err)
	}
}

// call calls do, and once more after a login if Vault refuses its own token.
func (v *Vault) call(ctx context.Context, do func() (*api.Secret, error)) (*api.Secret, error) {
	if v.client.Token() == "" {
		if err := v.logIn(ctx); err != nil {
			return nil, err
		}
	}
	secret, err := do()
	var refused *api.ResponseError
	if errors.As(err, &refused) && refused.StatusCode == http.StatusForbidden {
		if err := v.logIn(ctx); err != nil {
			return nil, err
		}
		secret, err = do()
	}
	if err == nil && (secret == nil || secret.Data == nil) {
		err = errors.New("there is nothing at " + v.path)
	}
	return secret, err
}

func (v *Vault) logIn(ctx context.Context) error {
	roleID, err := os.ReadFile(v.roleID)
	if err != nil {
		return err
	}
	secretID, err := os.ReadFile(v.secretID)
	if err != nil {
		return err
	}
	v.client.ClearToken()
	secret, err := v.client.Logical().WriteWithContext(ctx, "auth/approle/login", map[string]any{
		"role_id": strings.TrimSpace(string(roleID)), "secret_id": strings.TrimSpace(string(secretID)),
	})
	if err != nil {
		return fmt.Errorf("log in: %w", err)
	}
	token, err := secret.TokenID()
	if err != nil {
		return err
	}
	v.client.SetToken(token)
	return nil
}
