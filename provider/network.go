// SPDX-License-Identifier: MPL-2.0

package provider

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strings"
	"syscall"
)

// NetworkPolicy restricts the hosts and addresses of token requests.
type NetworkPolicy struct {
	// AllowPrivateAddresses permits addresses outside the public Internet, and plain http to loopback.
	AllowPrivateAddresses bool
	// AllowedHosts are globs ([path.Match]) of the hosts that an overridden URL may name; empty: any.
	AllowedHosts []string
	// ProxyResolvesNames leaves the lookup of a target's name to the proxy, if there is one. The addresses behind the name are then
	// not checked.
	ProxyResolvesNames bool
}

// CheckURL checks the text of a URL. The addresses of its host are checked when they are dialed, and AllowedHosts by
// [NetworkPolicy.CheckHost]. The error is a *[URLError].
func (p NetworkPolicy) CheckURL(raw string) error {
	if HasControl(raw) {
		return &URLError{Problem: "contains a control character"}
	}
	if strings.Contains(raw, `\`) {
		return &URLError{Problem: "contains a backslash, which browsers read as a slash"}
	}
	u, err := url.Parse(raw)
	if err != nil || u.Opaque != "" || u.Hostname() == "" {
		return &URLError{Problem: "is not an absolute URL with a host"}
	}
	if u.User != nil {
		return &URLError{Problem: "contains a user name or password; remove it"}
	}
	if err := CheckHostSpelling(u.Hostname()); err != nil {
		return err
	}
	if u.Fragment != "" || strings.Contains(raw, "#") {
		return &URLError{Problem: "contains a fragment; remove it"} // RFC 6749, section 3.2
	}
	switch {
	case u.Scheme == "https":
		return nil
	case u.Scheme != "http":
		return &URLError{Problem: "is not an https URL"}
	case !isLoopbackName(u.Hostname()):
		return &URLError{Problem: "is not an https URL (http is accepted for loopback only)"}
	case !p.AllowPrivateAddresses:
		return &URLError{
			Problem: "is not an https URL (http is accepted for loopback only, and only if private addresses are allowed)",
			Remedy:  RemedyPrivateAddresses,
		}
	}
	return nil
}

// CheckLiteral checks the host of a URL if that needs no name lookup: an IP address, localhost or a name below it. The error
// is a *[URLError].
func (p NetworkPolicy) CheckLiteral(raw string) error {
	u, err := url.Parse(raw)
	if err != nil {
		return &URLError{Problem: "is not an absolute URL with a host"}
	}
	if isLocalhost(u.Hostname()) {
		return p.checkAddress(netip.IPv6Loopback())
	}
	if address, err := netip.ParseAddr(u.Hostname()); err == nil {
		return p.checkAddress(address)
	}
	return nil
}

// CheckHost checks the host of an overridden URL against AllowedHosts. The error is a *[URLError].
func (p NetworkPolicy) CheckHost(raw string) error {
	if len(p.AllowedHosts) == 0 {
		return nil
	}
	u, err := url.Parse(raw)
	if err != nil {
		return &URLError{Problem: "is not an absolute URL with a host"}
	}
	host := strings.ToLower(u.Hostname())
	for _, glob := range p.AllowedHosts {
		if ok, _ := path.Match(strings.ToLower(glob), host); ok {
			return nil
		}
	}
	return &URLError{
		Problem: "names a host that is not allowed; use one of " + strings.Join(p.AllowedHosts, ", "),
		Remedy:  RemedyAllowedHosts,
	}
}

func isLoopbackName(host string) bool {
	address, err := netip.ParseAddr(host)
	return err == nil && address.Unmap().IsLoopback() || strings.EqualFold(strings.TrimSuffix(host, "."), "localhost")
}

func (p NetworkPolicy) checkAddress(address netip.Addr) error {
	if p.AllowPrivateAddresses {
		return nil
	}
	if class := reservedClass(address); class != "" {
		return &URLError{Problem: "leads to " + class + " address, which is not allowed", Remedy: RemedyPrivateAddresses}
	}
	return nil
}

// control is a [net.Dialer]'s ControlContext. It checks the address after the name lookup and before the connection. So a name
// cannot pass the check with one address and then lead to another.
func (p NetworkPolicy) control(_ context.Context, _, address string, _ syscall.RawConn) error {
	target, err := netip.ParseAddrPort(address)
	if err != nil {
		return errors.New("is not an IP address")
	}
	return p.checkAddress(target.Addr())
}

// lookupError is the error of the lookup of a target's name, before a proxy is asked.
type lookupError struct{ error }

func (e *lookupError) Unwrap() error { return e.error }

// isMetadataName reports whether a host is the metadata service of a cloud, by one of its names.
func isMetadataName(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return slices.Contains([]string{"metadata", "metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal"}, host)
}

// checkTarget looks up a host and checks all its addresses. It is for requests through a proxy, because the dialed address
// is the proxy's.
func (p NetworkPolicy) checkTarget(ctx context.Context, host string) error {
	if p.AllowPrivateAddresses {
		return nil
	}
	if isLocalhost(host) {
		return p.checkAddress(netip.IPv6Loopback())
	}
	if address, err := netip.ParseAddr(host); err == nil {
		return p.checkAddress(address)
	}
	if isMetadataName(host) {
		return &URLError{Problem: "is the metadata service of a cloud, which is not allowed", Remedy: RemedyPrivateAddresses}
	}
	if p.ProxyResolvesNames {
		return nil
	}
	addresses, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return &lookupError{err}
	}
	for _, address := range addresses {
		if err := p.checkAddress(address); err != nil {
			return err
		}
	}
	return nil
}
