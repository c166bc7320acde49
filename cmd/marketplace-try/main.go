// SPDX-License-Identifier: MPL-2.0

// Command marketplace-try shows the engine at work without a Vault server. It runs the engine in its own process, on storage in
// memory, with the simulator as the marketplaces. It prints the first steps, and on a terminal it then reads commands.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"syscall"
)

const banner = `This is not a Vault. The engine runs in this process, on storage in memory, against simulated marketplaces.
There is no seal, no token, no policy and no audit log, so write no real secret here. make demo shows the same on a
Vault server.
`

const prompt = "\n$ "

// invitation follows the first steps. SIMULATOR stands for the simulator's address.
const invitation = `
Type further commands, such as vault path-help marketplace/config/x. To see a broken shop in the status, type these:

    vault write marketplace/config/second provider=kleinanzeigen verify_connection=false client_id=demo-client \
        client_secret=wrong token_url=SIMULATOR/kleinanzeigen/v2/oidc/token
    vault read marketplace/creds/second
    vault read -format=yaml marketplace/status

Type exit or Ctrl-D to end this process. All that it holds is then lost.
`

// errUsage says which commands there are.
var errUsage = errors.New(`command: is not known here; use vault read, write, patch, delete, list or path-help with a path
below marketplace/, or vault lease revoke, or exit`)

// step is a command with the comment above it.
type step struct {
	comment, command string
	refused          bool // the command must fail
}

// steps are the first steps, which make demo also shows, in the same words. SIMULATOR stands for the simulator's address.
//
// The longest output is that of the list, so it comes first and does not push the others off the screen.
var steps = []step{
	{comment: `The plugin knows these marketplaces (oauth2 is for any other). Their token requests differ, but the commands
are the same. The field "obtain" says what to get from the marketplace first.`,
		command: `vault list marketplace/providers`},
	{command: `vault read -field=obtain marketplace/providers/marktplaats`},
	{comment: `By default, token requests to private addresses are refused. The simulator is on loopback, so allow them.`,
		command: `vault write marketplace/settings allow_private_addresses=true`},
	{comment: `Each marketplace gets a config with the client credentials. With a real account, omit token_url.
The plugin verifies the credentials before it stores them.`,
		command: `vault write marketplace/config/kleinanzeigen \
    client_id=demo-client client_secret=demo-secret \
    token_url=SIMULATOR/kleinanzeigen/v2/oidc/token`},
	{comment: `An application reads a token. Its lease ends before the token expires.`,
		command: `vault read marketplace/creds/kleinanzeigen`},
	{comment: `A wrong client secret is not accepted.`,
		command: `vault write marketplace/config/kleinanzeigen client_secret=wrong`, refused: true},
	{comment: `Which shop is broken? One command says so: why, since when, and how many are well.`,
		command: `vault read -format=yaml marketplace/status`},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var commands io.Reader = strings.NewReader("")
	if info, err := os.Stdin.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
		commands = os.Stdin // a terminal, and not a pipe that may stay open
	}
	if err := run(ctx, commands, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "marketplace-try:", err)
		os.Exit(1)
	}
}

// run prints the first steps, and then the output of each line of commands.
func run(ctx context.Context, commands io.Reader, out io.Writer) error {
	e, err := newEngine(ctx)
	if err != nil {
		return err
	}
	defer e.close()
	fmt.Fprint(out, banner)
	for _, s := range steps {
		if err := e.show(ctx, s, out); err != nil {
			return err
		}
	}
	return e.prompt(ctx, commands, out)
}

// show prints a step and its output. It returns an error if the outcome is not that of the demo.
func (e *engine) show(ctx context.Context, s step, out io.Writer) error {
	if s.comment != "" {
		fmt.Fprintf(out, "\n# %s\n", strings.ReplaceAll(s.comment, "\n", "\n# "))
	}
	command := strings.ReplaceAll(s.command, "SIMULATOR", e.vendors.HTTP)
	fmt.Fprintf(out, "$ %s\n", command)
	output, err := e.execute(ctx, command)
	if err != nil {
		output = err.Error()
	}
	fmt.Fprintln(out, shorten(output))
	if (err != nil) != s.refused {
		return fmt.Errorf("%s: this outcome was not expected; report it as a bug", command)
	}
	return nil
}

// tokens matches access tokens in an output.
var tokens = regexp.MustCompile(`(?m)^(access_token +\S{8})\S*|(Bearer \S{8})[^] ]*`)

// shorten shortens access tokens, which fill several lines.
func shorten(output string) string {
	return tokens.ReplaceAllString(output, "$1$2…")
}

// prompt executes commands until there are no more, or the context ends.
func (e *engine) prompt(ctx context.Context, commands io.Reader, out io.Writer) error {
	lines := make(chan string)
	go func() {
		defer close(lines)
		for scanner := bufio.NewScanner(commands); scanner.Scan(); {
			lines <- scanner.Text()
		}
	}()
	if commands == io.Reader(os.Stdin) {
		fmt.Fprint(out, strings.ReplaceAll(invitation, "SIMULATOR", e.vendors.HTTP), prompt)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case line, open := <-lines:
			if !open || slices.Contains([]string{"exit", "quit"}, strings.TrimSpace(line)) {
				return nil
			}
			e.answer(ctx, line, out)
		}
	}
}

// answer prints the output of one command, and the next prompt.
func (e *engine) answer(ctx context.Context, line string, out io.Writer) {
	if strings.TrimSpace(line) != "" {
		output, err := e.execute(ctx, line)
		if err != nil {
			output = err.Error()
		}
		fmt.Fprintln(out, output)
	}
	fmt.Fprint(out, prompt)
}
