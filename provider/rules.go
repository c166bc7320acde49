// SPDX-License-Identifier: MPL-2.0

package provider

import (
	"fmt"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// Rule says what one place of a definition accepts. The checker follows it, and so do the JSON Schema and the reference in docs/.
// So each accepted value is written once.
type Rule struct {
	// OneOf lists the accepted texts; empty: any that Pattern matches.
	OneOf []string
	// Pattern matches the accepted texts; nil: any. Its syntax is common to Go and ECMAScript.
	Pattern *regexp.Regexp
	// Except lists texts that are not accepted, in upper or lower case.
	Except []string
	// Min and Max bound a number. If Max is zero, only Min does.
	Min, Max int64
	// Names is the rule for the names of a mapping; nil: any.
	Names *Rule
	// Required means that a definition needs the value, unless it has that of the definition which it extends.
	Required bool
	// Words lists texts and truth values that are accepted in place of a value.
	Words []string
	// Text means that a text is accepted in place of a mapping.
	Text bool

	// Problem says what is wrong with a text that Pattern does not match, and with a number out of bounds.
	Problem string
	// elsewhere means that another check reports a value that breaks the rule, and says more about it.
	elsewhere bool
}

// The syntax of texts. None of them uses what ECMAScript reads differently.
var (
	nameSyntax = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$`)
	// textSyntax matches what has no control character; see [HasControl].
	textSyntax   = regexp.MustCompile(`^[^\x00-\x1f\x7f]*$`)
	headerSyntax = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")
	labelSyntax  = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)
	// hostSyntax matches one or more DNS labels with dots.
	hostSyntax = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$`)
	// separatorSyntax matches what stands between the values of a scope. A letter would take a word apart.
	separatorSyntax = regexp.MustCompile(`^[ ,;|+]{0,2}$`)
	// countrySyntax matches codes of ISO 3166-1 alpha-2.
	countrySyntax = regexp.MustCompile(`^[A-Z]{2}$`)
	// parameterSyntax matches names of parameters.
	parameterSyntax = regexp.MustCompile(`^[^\x00-\x1f\x7f]+$`)
	statusSyntax    = regexp.MustCompile(`^[3-5][0-9][0-9]$`)
	// pathSyntax matches every path that checkPath accepts.
	pathSyntax = regexp.MustCompile(`^(header:.+|` + pathName + `(\.[^.\[\]"\x00-\x1f\x7f]+|` + pathBrackets + `){0,11})$`)
	// httpsSyntax and urlSyntax match the beginning of a URL, which is parsed later.
	httpsSyntax = regexp.MustCompile(`^[Hh][Tt][Tt][Pp][Ss]://.`)
	urlSyntax   = regexp.MustCompile(`^[Hh][Tt][Tt][Pp][Ss]?://[^\x00-\x1f\x7f#\\]+$`)
	// recognizableSyntax matches texts of at least four bytes without the spaces around them.
	recognizableSyntax = regexp.MustCompile(`[^\x00-\x7f]|\S[\s\S]{2,}\S`)
)

// The parts of a path: a name in brackets or the index of a list, and either of them or a plain name.
const (
	pathBrackets = `\["[^"\x00-\x1f\x7f]+"\]|\[(-0+|0*[0-9]{1,2})\]`
	pathName     = `([^.\[\]"\x00-\x1f\x7f]+|` + pathBrackets + `)`
)

// Rules returns the rules by place. A place is the path of a field, with * for a name in a mapping and [] for an entry of a list.
// Grant types stand for themselves. Each text and each number of a definition has a rule, even if it accepts everything.
func Rules() map[string]Rule { return rules() }

var rules = sync.OnceValue(func() map[string]Rule {
	all := make(map[string]Rule)
	for _, add := range []func(map[string]Rule){providerRules, clientRules, requestRules, responseRules, limitRules} {
		add(all)
	}
	return all
})

func providerRules(all map[string]Rule) {
	noControl := Rule{Pattern: textSyntax, Problem: "contains a line break or another control character"}
	all["format"] = Rule{Max: Format, elsewhere: true}
	all["name"] = Rule{Pattern: nameSyntax, Problem: "is not valid; use lower-case letters, digits and inner hyphens, at most 64", Required: true}
	all["documentation"] = Rule{Pattern: httpsSyntax, Required: true, elsewhere: true}
	all["countries[]"] = Rule{
		Pattern: countrySyntax, Problem: "is not a country; use two capital letters, such as NL (ISO 3166-1 alpha-2)",
	}
	all["extends"] = Rule{}
	for _, text := range []string{"title", "obtain", "use", "quirks[]"} {
		all[text] = noControl
	}
	name := &Rule{Pattern: nameSyntax, Problem: "is not a valid name; use lower-case letters, digits and inner hyphens"}
	all["environments"] = Rule{Names: name, Required: true, elsewhere: true}
	all["environments."+DefaultEnvironment] = Rule{Required: true, elsewhere: true}
	for _, environment := range []string{DefaultEnvironment, "*"} {
		for field := range (Environment{}).fields() {
			all["environments."+environment+"."+field] = Rule{Pattern: urlSyntax, elsewhere: true}
		}
	}
	all["variables.*"] = Rule{Text: true}
	all["variables.*.kind"] = Rule{OneOf: []string{VariableLabel, VariableHost, VariableOneOf}}
	all["variables.*.one_of[]"] = Rule{Pattern: hostSyntax, Problem: "is not a part of a host name"}
	all["variables.*.follows"] = Rule{}
	all["variables.*.values.*"] = Rule{Pattern: labelSyntax, Problem: "is not one DNS label"}
	all["variables.*.description"] = Rule{}
	all["api.headers"] = Rule{Names: &Rule{Pattern: headerSyntax, Except: ownHeaders(), elsewhere: true}}
	all["api.headers.*"] = Rule{Pattern: textSyntax, elsewhere: true}
	all["evidence[].known_by"] = Rule{OneOf: evidenceKinds(), elsewhere: true}
	for _, text := range []string{"facts[]", "source", "note"} {
		all["evidence[]."+text] = Rule{}
	}
}

func clientRules(all map[string]Rule) {
	all["client_auth[]"] = Rule{OneOf: texts(ClientAuths())}
	for _, field := range []string{"client_id", "client_secret"} {
		all["credentials."+field] = Rule{Pattern: textSyntax, Except: []string{"grant_type"}, elsewhere: true}
	}
	all["assertion.lifetime"] = Rule{Max: 3600, Problem: "is not a number of seconds from 0 to an hour"}
	all["assertion.algorithms[]"] = Rule{OneOf: algorithms()}
	all["authorization.redirect_uri"] = Rule{OneOf: []string{RedirectExact, RedirectPrefix, RedirectByName}}
	all["authorization.pkce"] = Rule{OneOf: texts([]PKCE{PKCEOff, PKCEOn, PKCERequired}), Words: []string{"true", "false"}}
	all["authorization.names"] = Rule{Names: &Rule{OneOf: authorizationNames()}}
	all["authorization.names.*"] = Rule{Pattern: textSyntax, elsewhere: true}
	all["authorization.scope_separator"] = Rule{}
	all["authorization.code_name"] = Rule{Pattern: textSyntax, Problem: "contains a control character"}
	parameterRules(all, "authorization.parameters.*", []string{FromParams})
	all["refresh_tokens.rotation"] = Rule{OneOf: []string{"always", "sometimes", "never"}}
	all["refresh_tokens.previous"] = Rule{OneOf: []string{"dies", "stays", "unclear"}}
	all["refresh_tokens.with_client_credentials"] = Rule{OneOf: []string{"unused"}}
	for _, place := range []string{"refresh_tokens.expires_in", "token_lifetime", "token_overlap", "answer.default_expires_in"} {
		all[place] = Rule{Max: int64(maxLifetime / time.Second), Problem: "is not a number of seconds from 0 to ten years"}
	}
}

func requestRules(all map[string]Rule) {
	all["grants"] = Rule{Names: &Rule{OneOf: texts(grantTypes()), elsewhere: true}, Required: true}
	for _, grantType := range grantTypes() {
		place := "grants." + string(grantType)
		all[place] = Rule{}
		all[place+".endpoint"] = Rule{OneOf: []string{"token_url", "refresh_url"}}
		grantRules(all, place, grantType)
	}
	all["revocation.endpoint"] = Rule{OneOf: []string{"revocation_url", "token_url"}}
	grantRules(all, "revocation", Revocation)
	all["device_authorization.endpoint"] = Rule{OneOf: []string{"device_authorization_url", "token_url"}}
	grantRules(all, "device_authorization", DeviceAuthorization)
}

// grantRules adds the rules for a request of a grant type.
func grantRules(all map[string]Rule, place string, grantType GrantType) {
	all[place+".client_auth"] = Rule{OneOf: texts(append(secretAuths(), AuthNone, AuthHeaders))}
	all[place+".method"] = Rule{OneOf: []string{http.MethodPost, http.MethodGet}}
	all[place+".body"] = Rule{OneOf: texts([]Body{BodyForm, BodyJSON, BodyNone})}
	all[place+".grant_type"] = Rule{Pattern: textSyntax, Problem: "contains a control character"}
	all[place+".codes.*"] = Rule{OneOf: codesOf(grantType)}
	all[place+".parameters"] = Rule{Names: &Rule{Pattern: parameterSyntax, Problem: "is not a name of a parameter"}}
	notOwn := "is not a header that a definition may set"
	all[place+".headers"] = Rule{Names: &Rule{Pattern: headerSyntax, Except: ownHeaders(), Problem: notOwn}}
	parameterRules(all, place+".parameters.*", parameterSources(grantType))
	parameterRules(all, place+".headers.*", headerSources(grantType))
}

// parameterRules adds the rules for a parameter or header, which can come from some fields of a request.
func parameterRules(all map[string]Rule, place string, sources []string) {
	all[place+".from"] = Rule{OneOf: sources}
	all[place+".generate"] = Rule{OneOf: []string{"uuid"}}
	all[place+".type"] = Rule{OneOf: []string{TypeString, TypeNumber, TypeBoolean, TypeList}}
	for _, field := range []string{"default", "prefix", "separator"} {
		all[place+"."+field] = Rule{Pattern: textSyntax, Problem: "contains a control character"}
	}
	constant := Rule{Pattern: textSyntax, elsewhere: true}
	all[place+".value"], all[place+".values.*"] = constant, constant
	all[place+".param"] = Rule{}
	all[place+".required_if.*"] = Rule{}
	all[place+".description"] = Rule{}
}

func responseRules(all map[string]Rule) {
	path := Rule{Pattern: pathSyntax, elsewhere: true}
	lifetimes := []string{ExpiresSeconds, ExpiresMilliseconds, ExpiresMinutes, ExpiresUnixSeconds, ExpiresUnixMilliseconds, ExpiresTime}
	all["answer.form"] = Rule{OneOf: []string{FormJSON, FormForm, FormText}}
	all["answer.expires_as"] = Rule{OneOf: lifetimes}
	all["answer.refresh_expires_as"] = Rule{OneOf: lifetimes}
	all["answer.names"] = Rule{Names: &Rule{OneOf: tokenMembers()}}
	for _, place := range []string{
		"answer.object", "answer.names.*", "answer.success.name", "answer.refresh_expires_in[]", "answer.extra[]", "answer.secret[]",
		"errors.code[]", "errors.description[]",
	} {
		all[place] = path
	}
	all["answer.success.name"] = Rule{Pattern: pathSyntax, Required: true, elsewhere: true}
	all["answer.success.values"] = Rule{Required: true, elsewhere: true}
	all["answer.scope_separator"] = Rule{
		Pattern: separatorSyntax, Problem: "is not a separator; use a space, a comma, a semicolon or the like",
	}
	for _, place := range []string{"answer.success.values[]", "answer.time_zone", "answer.no_value"} {
		all[place] = Rule{}
	}
	code := Rule{OneOf: sortedKeys(codeKinds)}
	for _, place := range []string{"errors.codes.*", "errors.texts.*", "errors.statuses.*"} {
		all[place] = code
	}
	all["errors.default"] = Rule{OneOf: sortedKeys(codeKinds), Except: []string{"invalid_grant"}} // checkErrors says why
	all["errors.texts"] = Rule{Names: &Rule{Pattern: recognizableSyntax, elsewhere: true}}
	status := &Rule{Pattern: statusSyntax, Problem: "is not the status of an error; use a number from 300 to 599"}
	all["errors.statuses"] = Rule{Names: status}
}

func limitRules(all map[string]Rule) {
	all["limits[].requests"] = Rule{Min: 1, Required: true, elsewhere: true}
	all["limits[].per"] = Rule{Min: 1, Max: maxWindow, Required: true, elsewhere: true}
	all["limits[].grants[]"] = Rule{OneOf: texts(grantTypes()), elsewhere: true}
	all["limits[].by"] = Rule{OneOf: []string{LimitByClient, LimitByAddress}}
	for _, field := range []string{"limit", "remaining", "reset"} {
		all["limit_headers."+field] = Rule{Pattern: headerSyntax, Problem: "is not the name of a header"}
	}
	all["limit_headers.reset_as"] = Rule{OneOf: []string{ExpiresUnixSeconds, ExpiresSeconds}}
}

func texts[T ~string](values []T) []string {
	all := make([]string, len(values))
	for i, value := range values {
		all[i] = string(value)
	}
	return all
}

// checkValues checks each value of a definition by the rule for its place.
func (c *checker) checkValues(path, place string, value reflect.Value) {
	switch value.Kind() {
	case reflect.Pointer:
		if !value.IsNil() {
			c.checkValues(path, place, value.Elem())
		}
	case reflect.Struct:
		for name, i := range fieldsOf(value.Type()) {
			inner, at := value.Field(i), join(place, name)
			if inner.Kind() != reflect.String || inner.Len() > 0 || rules()[at].Required { // an empty text is none
				c.checkValues(join(path, name), at, inner)
			}
		}
	case reflect.Map:
		for _, key := range value.MapKeys() {
			name := key.String()
			at := join(place, name)
			if _, ok := rules()[at]; !ok {
				at = join(place, "*")
			}
			if names := rules()[place].Names; names != nil {
				c.checkText(join(path, name), name, *names)
			}
			c.checkValues(join(path, name), at, value.MapIndex(key))
		}
	case reflect.Slice:
		for i := range value.Len() {
			c.checkValues(fmt.Sprintf("%s[%d]", path, i), place+"[]", value.Index(i))
		}
	case reflect.String:
		c.checkText(path, value.String(), rules()[place])
	case reflect.Int, reflect.Int64:
		rule := rules()[place]
		if n := value.Int(); !rule.elsewhere && (n < rule.Min || rule.Max > 0 && n > rule.Max) {
			c.add(path, "%s", rule.Problem)
		}
	}
}

func (c *checker) checkText(path, text string, rule Rule) {
	switch {
	case rule.elsewhere:
	case len(rule.OneOf) > 0:
		oneOf(c, path, text, rule.OneOf...)
	case rule.Pattern != nil && !rule.Pattern.MatchString(text), rule.excepts(text):
		c.add(path, "%s", rule.Problem)
	}
}

func (r Rule) excepts(text string) bool {
	return slices.ContainsFunc(r.Except, func(other string) bool { return strings.EqualFold(text, other) })
}
