// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"regexp"
	"strings"
	"unicode"

	"vault-plugin-secrets-marketplace/provider"
)

// placeholder stands for a value in the commands that the engine prints.
const placeholder = "…"

// pastedProblem returns what is wrong with a credential that a person has pasted, such as a code or a client secret; empty if
// nothing is. name is what the provider calls it.
func pastedProblem(name, value string) string {
	first, last := firstAndLast(value)
	switch {
	case value == "":
		return ""
	case provider.HasControl(value):
		return "contains a control character, such as a line break at its end; remove it"
	case value == placeholder:
		return "is the placeholder of a printed command; replace it with the value"
	case isInvisible(first) || isInvisible(last):
		return "begins or ends with a blank or an invisible character; remove it"
	case len(value) > 1 && first == last && strings.ContainsRune(`"'`, first):
		return "is in quotes; remove them"
	case len(value) > len(name) && strings.EqualFold(value[:len(name)+1], name+"="):
		return "begins with its own name; give what follows " + name + "= alone"
	case strings.Contains(value, `"`+name+`"`):
		return "is a JSON object; give the value of " + name + " in it alone"
	}
	return ""
}

func firstAndLast(value string) (first, last rune) {
	for i, r := range value {
		if i == 0 {
			first = r
		}
		last = r
	}
	return first, last
}

// isInvisible reports whether a character is white space, or is not shown at all, such as a byte order mark.
func isInvisible(r rune) bool { return unicode.IsSpace(r) || unicode.Is(unicode.Cf, r) }

var (
	percentEscape = regexp.MustCompile(`%[0-9A-Fa-f]{2}`)
	// furtherParameter matches what follows a code in the query of a redirect.
	furtherParameter = regexp.MustCompile(`&[A-Za-z_.]+=`)
)

// emptyFragment is what some authorization servers put behind the URL of a redirect.
const emptyFragment = "#_=_"

// LooksEncoded reports whether a text looks percent-encoded, as in a URL: it has escapes, and no percent sign beside them.
func LooksEncoded(text string) bool {
	return percentEscape.MatchString(text) && !strings.Contains(percentEscape.ReplaceAllString(text, ""), "%")
}
