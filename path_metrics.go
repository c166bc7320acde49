// SPDX-License-Identifier: MPL-2.0

package marketplace

import (
	"bytes"
	"context"
	"net/http"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/prometheus/common/expfmt"

	"vault-plugin-secrets-marketplace/backend"
)

// metricsFormat is the field that names a format, and the formats are its values. Those of the same name in Vault's own sys/metrics
// mean the same.
const (
	metricsFormat     = "format"
	formatPrometheus  = "prometheus"
	formatOpenMetrics = "openmetrics"
)

func (p *plugin) pathsMetrics() []*framework.Path {
	return []*framework.Path{{
		Pattern:      "metrics$",
		DisplayAttrs: named("metrics"),
		Fields: map[string]*framework.FieldSchema{
			metricsFormat: {
				Type:          framework.TypeString,
				Description:   "Format of the response: prometheus (the default) or openmetrics.",
				AllowedValues: []any{formatPrometheus, formatOpenMetrics},
			},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: returnsText("The metrics as Prometheus text or OpenMetrics.",
				local(p.readMetrics, "Read the mount's metrics, for Prometheus.")),
		},
		HelpSynopsis:    metricsSynopsis,
		HelpDescription: metricsDescription,
	}}
}

// returnsText declares that an operation's response is text and not JSON.
func returnsText(description string, operation *framework.PathOperation) *framework.PathOperation {
	operation.Responses = map[int][]framework.Response{http.StatusOK: {{Description: description, MediaType: "text/plain"}}}
	return operation
}

// readMetrics returns the metrics of this node. It is not forwarded, because each node counts what it does itself.
func (p *plugin) readMetrics(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	format, err := formatOf(fieldsOf(ctx), req.Headers)
	if err != nil {
		return nil, err
	}
	families, err := p.engine.Metrics(ctx)
	if err != nil {
		return nil, err
	}
	var body bytes.Buffer
	encoder := expfmt.NewEncoder(&body, format)
	for _, family := range families {
		if err := encoder.Encode(family); err != nil {
			return nil, err
		}
	}
	if closer, ok := encoder.(expfmt.Closer); ok { // OpenMetrics ends with a mark
		if err := closer.Close(); err != nil {
			return nil, err
		}
	}
	return &logical.Response{Data: map[string]any{
		logical.HTTPStatusCode:  http.StatusOK,
		logical.HTTPContentType: string(format),
		logical.HTTPRawBody:     body.Bytes(),
	}}, nil
}

// formatOf returns the format that a scrape asks for, in the field or else in the header Accept. Vault passes that header on if the
// mount is tuned to.
func formatOf(fields backend.Fields, headers map[string][]string) (expfmt.Format, error) {
	named, given := fields[metricsFormat]
	switch {
	case !given && http.Header(headers).Get("Accept") != "":
		return expfmt.NegotiateIncludingOpenMetrics(headers), nil
	case !given, named == formatPrometheus:
		return expfmt.NewFormat(expfmt.TypeTextPlain), nil
	case named == formatOpenMetrics:
		return expfmt.NewFormat(expfmt.TypeOpenMetrics), nil
	}
	return "", &backend.FieldError{
		Field: metricsFormat, Problem: "is not a format of metrics", Accepted: formatPrometheus + " or " + formatOpenMetrics,
	}
}

const metricsSynopsis = `The mount's metrics, for Prometheus.`

const metricsDescription = `
Returns counters and gauges of this mount as text, for a scrape by Prometheus.
With format=openmetrics, the text is OpenMetrics. No token request is sent, and
no secret is shown.

    vault read -format=raw marketplace/metrics
    vault read -format=raw marketplace/metrics format=openmetrics

Each node answers for itself, and counts from the start of its process. A token
for Prometheus needs a policy with the capability "read" on this path alone.
`
