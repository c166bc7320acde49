// SPDX-License-Identifier: MPL-2.0

package marketplace

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"vault-plugin-secrets-marketplace/provider"
)

// setup returns what an operator needs to get tokens from a provider, as a page for the terminal.
func setup(mount, config string, d provider.Definition) string {
	var page strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&page, format+"\n", args...) }
	line("%s", d.Title)
	if d.Obtain != "" {
		line("\nWhat to get: %s", d.Obtain)
	}
	line("Documentation: %s", d.Documentation)
	line("\nPut your values in place of each …:\n")
	own := Commands(mount, config, d)
	for _, command := range own {
		line("    %s", command)
	}
	if commands := UserCommands(mount, config, d); commands != nil {
		line("\nFor the token of a user, who authorizes your application in a browser:\n")
		for _, command := range commands {
			line("    %s", command)
		}
	}
	if d.Has(provider.AuthorizationCode) && d.Has(provider.RefreshToken) && !slices.Contains(own, importCommand(mount, config)) {
		line("\nIf you have a refresh token already, give it to the role, and omit authorize/ and exchange/:\n")
		line("    %s", importCommand(mount, config))
	}
	if placeholders := Placeholders(d); len(placeholders) > 0 {
		line("")
		for _, name := range slices.Sorted(maps.Keys(placeholders)) {
			line("    %s: %s", name, placeholders[name])
		}
	}
	line("")
	if len(d.Environments) > 1 {
		line("Environments: %s. Add environment=… to the first command for any but %s.",
			strings.Join(slices.Sorted(maps.Keys(d.Environments)), ", "), provider.DefaultEnvironment)
	}
	if d.TokenLifetime > 0 {
		line("A token lives %s.", ShortDuration(d.TokenLifetime))
	}
	if d.Use != "" {
		line("%s", d.Use)
	}
	for _, quirk := range d.Quirks {
		line("- %s", quirk)
	}
	return page.String()
}

// ShortDuration returns seconds in the longest unit that fits, and from two days on in days.
func ShortDuration(seconds int64) string {
	d := time.Duration(seconds) * time.Second
	if d > 48*time.Hour {
		d = d.Round(24 * time.Hour)
	}
	for _, unit := range []struct {
		length time.Duration
		name   string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}, {time.Second, "second"}} {
		if d%unit.length == 0 {
			n := int(d / unit.length)
			if n == 1 {
				return "1 " + unit.name
			}
			return fmt.Sprintf("%d %ss", n, unit.name)
		}
	}
	return d.String()
}
