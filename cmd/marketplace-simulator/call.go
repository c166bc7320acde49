// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

const callUsage = "marketplace-simulator call [-bearer token] [-json body] URL"

// call sends one request to a simulator on loopback and prints the response's body, or the target of a redirect. The demo uses it on
// a machine without an HTTP client.
func call(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet(callUsage, flag.ContinueOnError)
	flags.SetOutput(stderr)
	bearer := flags.String("bearer", "", "access `token` for the Authorization header")
	body := flags.String("json", "", "JSON `body` to post; if empty, the request is a GET")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 {
		return errors.New("one URL is required; usage: " + callUsage)
	}
	if err := checkLoopback(flags.Arg(0)); err != nil {
		return err
	}
	method := http.MethodGet
	if *body != "" {
		method = http.MethodPost
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, flags.Arg(0), strings.NewReader(*body))
	if err != nil {
		return err
	}
	if *bearer != "" {
		request.Header.Set("Authorization", "Bearer "+*bearer)
	}
	response, err := (&http.Transport{}).RoundTrip(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if location := response.Header.Get("Location"); location != "" {
		_, err := fmt.Fprintln(stdout, location)
		return err
	}
	if _, err := io.Copy(stdout, response.Body); err != nil {
		return err
	}
	if response.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("the simulator answered %s", response.Status)
	}
	return nil
}

// checkLoopback returns an error unless the URL's host is a loopback address.
func checkLoopback(raw string) error {
	u, err := url.Parse(raw)
	if err == nil {
		if address, err := netip.ParseAddr(u.Hostname()); err == nil && address.IsLoopback() {
			return nil
		}
	}
	return errors.New("the URL's host is not a loopback address; use one that the simulator has printed")
}
