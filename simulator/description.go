// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"sync"

	"go.yaml.in/yaml/v3"
)

// description describes a vendor as data: a file in marketplaces. README.md documents the format. Only this file decodes it, so
// that its types are the whole format.
type description struct {
	Names         []string                  `yaml:"names"` // of the vendor, or of all sites that share the description
	Client        describedClient           `yaml:"client"`
	Lifetime      int                       `yaml:"lifetime"` // of an access token, in seconds
	AccessTokens  string                    `yaml:"access_tokens"`
	RefreshTokens describedRefresh          `yaml:"refresh_tokens"`
	Requests      []describedRequest        `yaml:"requests"`
	Authorization *describedAuthorization   `yaml:"authorization"`
	Answer        *describedAnswer          `yaml:"answer"`
	Errors        describedErrors           `yaml:"errors"`
	API           map[string]describedValue `yaml:"api"` // headers of the protected endpoint
}

// describedClient is the client that is registered at start.
type describedClient struct {
	ID           string   `yaml:"id"`
	Secret       string   `yaml:"secret"`
	Scopes       []string `yaml:"scopes"`
	RedirectURI  string   `yaml:"redirect_uri"`  // as the client sends it
	RedirectsTo  string   `yaml:"redirects_to"`  // the URI behind it, if redirect_uri is only a name
	RefreshToken string   `yaml:"refresh_token"` // valid from the start, as if handed out in the vendor's portal
}

// Relations of a new access token to the older ones.
const (
	tokensIndependent  = ""
	tokensOnePerGrant  = "one_per_grant"
	tokensOnePerClient = "one_per_client"
	tokensSame         = "same" // there is no new one until the old one expires
)

// Fates of a refresh token that is used.
const (
	refreshSingleUse = "single_use" // each use returns the next one
	refreshStays     = "stays"
	refreshOverlap   = "overlap" // like single_use, but the previous one stays valid for a while
)

type describedRefresh struct {
	Use      string `yaml:"use"`
	Lifetime int    `yaml:"lifetime"` // in seconds; 0: they do not expire
	Idle     bool   `yaml:"idle"`     // each use starts the lifetime again
	Overlap  int    `yaml:"overlap"`  // in seconds
	// OnePerClient ends the tokens of a client's older authorizations with the same scope.
	OnePerClient bool `yaml:"one_per_client"`
}

// describedRequest is a request that issues tokens.
type describedRequest struct {
	Grant     string   `yaml:"grant"` // client_credentials, authorization_code or refresh_token
	GrantType string   `yaml:"grant_type"`
	Path      string   `yaml:"path"`
	Aliases   []string `yaml:"aliases"` // other paths with the same response
	Method    string   `yaml:"method"`
	// Places are where parameters may be: form, json or query. Place none is a request without parameters.
	Places []string `yaml:"places"`
	// SecretsInQuery accepts the place query also for secrets.
	SecretsInQuery bool `yaml:"secrets_in_query"`
	// Client are the accepted ways to authenticate the client.
	Client     []string                  `yaml:"client"`
	Parameters map[string]describedValue `yaml:"parameters"`
	Headers    map[string]describedValue `yaml:"headers"`
	Without    []string                  `yaml:"without"` // standard parameters that the vendor does not know
	Answer     *describedAnswer          `yaml:"answer"`
	// RefreshToken makes a client_credentials response have a refresh token.
	RefreshToken bool `yaml:"refresh_token"`
}

// Ways to authenticate a client.
const (
	clientBasic        = "basic"         // with or without form-encoding
	clientBasicRaw     = "basic_raw"     // without
	clientBasicEncoded = "basic_encoded" // with
	clientParameters   = "parameters"
	clientID           = "id" // a parameter with the id, and no secret
	clientHeaders      = "headers"
	clientNone         = "none"
)

// Places of parameters.
const (
	inForm  = "form"
	inJSON  = "json"
	inQuery = "query"
	inNone  = "none"
)

// describedValue is a parameter or a header. Exactly one of the first five members says which value is correct.
type describedValue struct {
	Value any    `yaml:"value"`  // this one, for every client
	Given any    `yaml:"given"`  // this one, which the vendor gave to the client
	Any   string `yaml:"any"`    // any text; this is an example
	OneOf []any  `yaml:"one_of"` // one of these
	From  string `yaml:"from"`   // what the client or the grant has

	Prefix    string `yaml:"prefix"`
	Type      string `yaml:"type"`      // in JSON: string (default), number or list
	Separator string `yaml:"separator"` // between scopes, a space by default
	Optional  bool   `yaml:"optional"`
	Secret    bool   `yaml:"secret"`

	ofClient bool // one of those with which the client authenticates
}

// Sources of a value.
const (
	fromClientID     = "client_id"
	fromClientSecret = "client_secret"
	fromClientPair   = "client_pair" // base64 of id:secret
	fromCode         = "code"
	fromRedirectURI  = "redirect_uri"
	fromVerifier     = "code_verifier"
	fromChallenge    = "code_challenge"
	fromMethod       = "code_challenge_method"
	fromRefreshToken = "refresh_token"
	fromAccessToken  = "access_token"
	fromScope        = "scope"
	fromState        = "state"
	fromGUID         = "guid" // a new one in each request
)

// describedAuthorization is an authorization endpoint.
type describedAuthorization struct {
	Path       string                    `yaml:"path"`
	PKCE       string                    `yaml:"pkce"`
	Parameters map[string]describedValue `yaml:"parameters"`
	Without    []string                  `yaml:"without"`
	Code       string                    `yaml:"code"` // the parameter of the redirect
}

// Attitudes of an authorization endpoint to PKCE.
const (
	pkceIgnored  = "ignored" // as RFC 6749 requires of unknown parameters
	pkceOff      = "off"     // refused
	pkceOptional = "optional"
	pkceRequired = "required"
)

// describedAnswer is a response. The body is a template.
type describedAnswer struct {
	As      string            `yaml:"as"` // json (default), form, xml or text
	Headers map[string]string `yaml:"headers"`
	Body    yaml.Node         `yaml:"body"`
	// WithoutJSON is the response to a request whose Accept header does not have application/json.
	WithoutJSON *describedAnswer `yaml:"without_json"`
}

// describedErrors are the errors by kind, with a common template.
type describedErrors struct {
	Body    yaml.Node      `yaml:"body"`
	Client  describedError `yaml:"client"`
	Grant   describedError `yaml:"grant"`
	Request describedError `yaml:"request"`
	Scope   describedError `yaml:"scope"`
	Type    describedError `yaml:"type"` // an unknown grant type
	Failure describedError `yaml:"failure"`
}

type describedError struct {
	Status int       `yaml:"status"`
	Code   any       `yaml:"code"`
	Text   string    `yaml:"text"` // in place of an explanation
	Body   yaml.Node `yaml:"body"` // in place of the common one
}

//go:embed marketplaces/*.yaml
var marketplaceFiles embed.FS

// descriptions returns every description. The files are part of the program, so an error in them is a panic.
var descriptions = sync.OnceValue(func() []*description {
	all, err := readDescriptions(marketplaceFiles)
	if err != nil {
		panic(err)
	}
	return all
})

func readDescriptions(files fs.FS) ([]*description, error) {
	found, err := fs.Glob(files, "marketplaces/*.yaml")
	if err != nil {
		return nil, err
	}
	var all []*description
	for _, name := range found {
		data, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, err
		}
		d, err := parseDescription(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path.Base(name), err)
		}
		all = append(all, d)
	}
	return all, nil
}

// parseDescription parses a description strictly and completes it.
func parseDescription(data []byte) (*description, error) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	d := &description{}
	if err := dec.Decode(d); err != nil {
		return nil, err
	}
	if err := dec.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		return nil, errors.New("a file must have one document")
	}
	d.complete()
	return d, d.check()
}
