// SPDX-License-Identifier: MPL-2.0

// Shop calls a marketplace's API again and again, with access tokens from Vault. An application replaces this file; it can
// keep the others.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "shop:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	path := flag.String("path", "kleinanzeigen", "config, or config/role, below the mount's creds/")
	mount := flag.String("mount", "marketplace", "path of the mount")
	roleID := flag.String("role-id", "../role-id", "file with the AppRole's role ID")
	secretID := flag.String("secret-id", "../secret-id", "file with the AppRole's secret ID")
	every := flag.Duration("every", time.Second, "time between two calls")
	flag.Parse()
	if flag.NArg() != 1 {
		return errors.New("give the URL to call as the only argument")
	}
	vault, err := NewVault(*mount, *path, *roleID, *secretID)
	if err != nil {
		return err
	}
	defer vault.LogOut()
	tokens := &Tokens{vault: vault}
	client := &http.Client{Transport: &Transport{Tokens: tokens, Base: http.DefaultTransport}, Timeout: 30 * time.Second}
	tick := time.NewTicker(*every)
	defer tick.Stop()
	for {
		if status, err := call(ctx, client, flag.Arg(0)); err != nil {
			fmt.Println("no answer:", err)
		} else {
			fmt.Println("answer", status, "with token", tokens.Fingerprint())
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func call(ctx context.Context, client *http.Client, url string) (status int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}
