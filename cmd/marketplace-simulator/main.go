// SPDX-License-Identifier: MPL-2.0

// Command marketplace-simulator serves the vendors' token endpoints on loopback,
// strictly as documented, with faults on demand. See simulator/README.md.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"vault-plugin-secrets-marketplace/simulator"
)

const (
	exitOK = iota
	exitFailure
	exitUsage
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// settings are the options from the command line.
type settings struct {
	simulator.Options
	dir              string
	untilStdinCloses bool
}

// ready is the line that the simulator prints once it is ready to serve.
type ready struct {
	HTTP   string `json:"http"`
	HTTPS  string `json:"https,omitempty"`
	CACert string `json:"ca_cert,omitempty"`
	CAFile string `json:"ca_file,omitempty"`
}

// run serves until the context is canceled, or calls a simulator, and returns the exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if len(args) > 0 && args[0] == "call" {
		return exitCode(call(ctx, args[1:], stdout, stderr), stderr)
	}
	set, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return exitOK
	}
	if err != nil {
		fmt.Fprintf(stderr, "marketplace-simulator: %v\n", err)
		return exitUsage
	}
	return exitCode(serve(ctx, set, stdin, stdout), stderr)
}

// exitCode prints an error, if there is one, and returns the exit code.
func exitCode(err error, stderr io.Writer) int {
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return exitOK
	}
	fmt.Fprintf(stderr, "marketplace-simulator: %v\n", err)
	return exitFailure
}

func parse(args []string, stderr io.Writer) (settings, error) {
	var set settings
	flags := flag.NewFlagSet("marketplace-simulator", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // run prints the error, once
	flags.StringVar(&set.Listen, "listen", "127.0.0.1:0", "HTTP `address`, loopback only; port 0 picks a free port")
	flags.StringVar(&set.TLSListen, "tls-listen", "", "HTTPS `address`, loopback only; if empty, no HTTPS")
	flags.StringVar(&set.dir, "dir", "", "`directory` for ca.pem and ready.json; if empty, neither is written")
	flags.BoolVar(&set.untilStdinCloses, "until-stdin-closes", false, "exit when standard input closes")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			flags.SetOutput(stderr)
			flags.Usage()
		}
		return settings{}, err
	}
	if flags.NArg() > 0 {
		return settings{}, fmt.Errorf("unexpected argument %q; use flags only", flags.Arg(0))
	}
	return set, set.Check()
}

func serve(ctx context.Context, set settings, stdin io.Reader, stdout io.Writer) error {
	if err := prepare(set.dir); err != nil {
		return err
	}
	server, err := simulator.Start(set.Options)
	if err != nil {
		return err
	}
	defer server.Close()
	if err := announce(server, set.dir, stdout); err != nil {
		return err
	}
	if set.untilStdinCloses {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		go func() {
			_, _ = io.Copy(io.Discard, stdin) // an error also means that stdin is closed
			cancel()
		}()
	}
	<-ctx.Done()
	return nil
}

// prepare creates the directory and deletes the ready.json of an earlier run,
// because other processes wait for this file.
func prepare(dir string) error {
	if dir == "" {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(dir, "ready.json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func announce(server *simulator.Server, dir string, stdout io.Writer) error {
	line := ready{HTTP: server.HTTP, HTTPS: server.HTTPS, CACert: server.CACert}
	if dir != "" && server.CACert != "" {
		line.CAFile = filepath.Join(dir, "ca.pem")
		if err := os.WriteFile(line.CAFile, []byte(server.CACert), 0o644); err != nil {
			return err
		}
	}
	text, err := json.Marshal(line)
	if err != nil {
		return err
	}
	text = append(text, '\n')
	if dir != "" {
		if err := writeWhole(filepath.Join(dir, "ready.json"), text); err != nil {
			return err
		}
	}
	_, err = stdout.Write(text)
	return err
}

// writeWhole writes a file so that no reader sees an incomplete one.
func writeWhole(path string, data []byte) error {
	part := path + ".part"
	if err := os.WriteFile(part, data, 0o644); err != nil {
		return err
	}
	return os.Rename(part, path)
}
