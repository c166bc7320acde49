// SPDX-License-Identifier: MPL-2.0

package provider

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"net/url"
	"path"
	"strings"
	"syscall"
)

// NetworkPolicy says where token requests may go.
type NetworkPolicy struct {
	// AllowPrivateAddresses permits addresses that are not global unicast addresses of the public Internet, and
	// plain http to loopback.
	AllowPrivateAddresses bool
	// AllowedHosts are globs ([path.Match]) of the hosts that an overridden URL may name; empty: any.
	AllowedHosts []string
}

// CheckURL tells whether a token request may be sent to the URL at all, as far as its text shows: the
// addresses behind its host are checked when they are dialled. It does not look at AllowedHosts.
func (p NetworkPolicy) CheckURL(raw string) error {
	if HasControl(raw) {
		return &URLError{Problem: "holds a control character"}
	}
	if strings.Contains(raw, `\`) {
		return &URLError{Problem: "holds a backslash, which browsers take for a slash"}
	}
	u, err := url.Parse(raw)
	if err != nil || u.Opaque != "" || u.Hostname() == "" {
		return &URLError{Problem: "is not an absolute URL with a host"}
	}
	if u.User != nil {
		return &URLError{Problem: "must not hold a user name or password"}
	}
	if err := CheckHostSpelling(u.Hostname()); err != nil {
		return err
	}
	if u.Fragment != "" || strings.Contains(raw, "#") {
		return &URLError{Problem: "must not hold a fragment"} // RFC 6749, section 3.2
	}
	switch {
	case u.Scheme == "https":
		return nil
	case u.Scheme != "http":
		return &URLError{Problem: "must be an https URL"}
	case !isLoopbackName(u.Hostname()):
		return &URLError{Problem: "must be an https URL (http is accepted for loopback only)"}
	case !p.AllowPrivateAddresses:
		return &URLError{
			Problem: "must be an https URL (http is accepted for loopback only, if private addresses are allowed)",
			Remedy:  RemedyPrivateAddresses,
		}
	}
	return nil
}

// CheckLiteral tells whether the URL's host may be dialled where that needs no name lookup: where the host is
// an IP address, localhost or a name below that.
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

// CheckHost tells whether an overridden URL may name its host.
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
		Problem: "names a host that is not allowed (allowed: " + strings.Join(p.AllowedHosts, ", ") + ")",
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

// control has a [net.Dialer] connect to what the policy allows. The check stands behind the name lookup and before the
// connection, so that a name that changes its address between two lookups gains nothing.
func (p NetworkPolicy) control(_ context.Context, _, address string, _ syscall.RawConn) error {
	target, err := netip.ParseAddrPort(address)
	if err != nil {
		return errors.New("is not an IP address")
	}
	return p.checkAddress(target.Addr())
}

// checkTarget looks up a host and checks every address of it: for requests that a proxy will carry, where the
// address dialled is the proxy's.
func (p NetworkPolicy) checkTarget(ctx context.Context, host string) error {
	if p.AllowPrivateAddresses {
		return nil
	}
	addresses, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return err
	}
	for _, address := range addresses {
		if err := p.checkAddress(address); err != nil {
			return err
		}
	}
	return nil
}
