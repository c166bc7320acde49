// SPDX-License-Identifier: MPL-2.0

package provider_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"vault-plugin-secrets-marketplace/provider"
)

// The definitions in docs/definitions.md are valid. A fragment that does not begin with a name continues the one before.
func TestDefinitionsPage_FragmentsAreValid(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/definitions.md")
	if err != nil {
		t.Fatal(err)
	}
	var documents []string
	for _, block := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
		text := block[1]
		if strings.HasPrefix(text, "   ") { // a block of a numbered step
			text = regexp.MustCompile(`(?m)^   `).ReplaceAllString(text, "")
		}
		if strings.HasPrefix(text, "name:") || len(documents) == 0 {
			documents = append(documents, "")
		}
		documents[len(documents)-1] += text
	}
	if len(documents) < 2 {
		t.Fatalf("the page has %d definitions", len(documents))
	}
	for _, text := range documents {
		if _, err := provider.ParseOwn([]byte(text), options(t)); err != nil {
			t.Errorf("%s\n%v", text, err)
		}
	}
}
