// SPDX-License-Identifier: MPL-2.0

package provider

import (
	"net/netip"
	"strings"
	"unicode"
)

var (
	// globalUnicast is the part of IPv6 with the addresses of the public Internet (RFC 4291, section 2.4).
	globalUnicast = netip.MustParsePrefix("2000::/3")
	// nat64 addresses stand for the IPv4 address in their last four bytes (RFC 6052, section 2.1).
	nat64 = netip.MustParsePrefix("64:ff9b::/96")
)

type reservedPrefix struct {
	prefix netip.Prefix
	class  string
}

// reservedAddresses lists the addresses outside the public Internet, from IANA's special-purpose registries
// (https://www.iana.org/assignments/iana-ipv4-special-registry, …/iana-ipv6-special-registry). The first prefix that
// contains an address counts. An entry without a class is globally reachable, according to the registries. IPv6 addresses
// outside both this list and globalUnicast are reserved too.
var reservedAddresses = []reservedPrefix{
	// Services that hand out a machine's credentials. WireServer has a public address.
	{netip.MustParsePrefix("169.254.169.254/32"), "a cloud metadata"},  // AWS, Azure, Google Cloud, OpenStack
	{netip.MustParsePrefix("169.254.170.2/32"), "a cloud metadata"},    // AWS, for containers
	{netip.MustParsePrefix("169.254.170.23/32"), "a cloud metadata"},   // AWS, for pods
	{netip.MustParsePrefix("168.63.129.16/32"), "a cloud metadata"},    // Azure, WireServer
	{netip.MustParsePrefix("100.100.100.200/32"), "a cloud metadata"},  // Alibaba Cloud
	{netip.MustParsePrefix("192.0.0.192/32"), "a cloud metadata"},      // Oracle Cloud
	{netip.MustParsePrefix("fd00:ec2::254/128"), "a cloud metadata"},   // AWS
	{netip.MustParsePrefix("fd00:ec2::23/128"), "a cloud metadata"},    // AWS, for pods
	{netip.MustParsePrefix("fd20:ce::254/128"), "a cloud metadata"},    // Google Cloud
	{netip.MustParsePrefix("fe80::a9fe:a9fe/128"), "a cloud metadata"}, // OpenStack

	{netip.MustParsePrefix("0.0.0.0/8"), "an unspecified"},
	{netip.MustParsePrefix("10.0.0.0/8"), "a private"},
	{netip.MustParsePrefix("100.64.0.0/10"), "a shared (RFC 6598)"},
	{netip.MustParsePrefix("127.0.0.0/8"), "a loopback"},
	{netip.MustParsePrefix("169.254.0.0/16"), "a link-local"},
	{netip.MustParsePrefix("172.16.0.0/12"), "a private"},
	{netip.MustParsePrefix("192.0.0.9/32"), ""},  // Port Control Protocol anycast
	{netip.MustParsePrefix("192.0.0.10/32"), ""}, // TURN anycast
	{netip.MustParsePrefix("192.0.0.0/24"), "an IETF protocol"},
	{netip.MustParsePrefix("192.0.2.0/24"), "a documentation"},
	{netip.MustParsePrefix("192.88.99.0/24"), "a 6to4 relay"},
	{netip.MustParsePrefix("192.168.0.0/16"), "a private"},
	{netip.MustParsePrefix("198.18.0.0/15"), "a benchmarking"},
	{netip.MustParsePrefix("198.51.100.0/24"), "a documentation"},
	{netip.MustParsePrefix("203.0.113.0/24"), "a documentation"},
	{netip.MustParsePrefix("224.0.0.0/4"), "a multicast"},
	{netip.MustParsePrefix("255.255.255.255/32"), "a broadcast"},
	{netip.MustParsePrefix("240.0.0.0/4"), "a reserved"},

	{netip.MustParsePrefix("::1/128"), "a loopback"},
	{netip.MustParsePrefix("::/128"), "an unspecified"},
	{netip.MustParsePrefix("::/96"), "an IPv4-compatible"},
	{netip.MustParsePrefix("::ffff:0:0:0/96"), "an IPv4-translated"},
	{netip.MustParsePrefix("64:ff9b:1::/48"), "a local NAT64"},
	{netip.MustParsePrefix("100::/64"), "a discard-only"},
	{netip.MustParsePrefix("2001::/32"), "a Teredo"},
	{netip.MustParsePrefix("2001:1::1/128"), ""}, // Port Control Protocol anycast
	{netip.MustParsePrefix("2001:1::2/128"), ""}, // TURN anycast
	{netip.MustParsePrefix("2001:1::3/128"), ""}, // DNS-SD Service Registration Protocol anycast
	{netip.MustParsePrefix("2001:2::/48"), "a benchmarking"},
	{netip.MustParsePrefix("2001:3::/32"), ""},     // AMT
	{netip.MustParsePrefix("2001:4:112::/48"), ""}, // AS112-v6
	{netip.MustParsePrefix("2001:10::/28"), "an ORCHID"},
	{netip.MustParsePrefix("2001:20::/28"), ""}, // ORCHIDv2
	{netip.MustParsePrefix("2001:30::/28"), ""}, // drone remote identification
	{netip.MustParsePrefix("2001::/23"), "an IETF protocol"},
	{netip.MustParsePrefix("2001:db8::/32"), "a documentation"},
	{netip.MustParsePrefix("2002::/16"), "a 6to4"},
	{netip.MustParsePrefix("3fff::/20"), "a documentation"},
	{netip.MustParsePrefix("5f00::/16"), "a segment routing"},
	{netip.MustParsePrefix("fc00::/7"), "a unique-local"},
	{netip.MustParsePrefix("fe80::/10"), "a link-local"},
	{netip.MustParsePrefix("fec0::/10"), "a site-local"},
	{netip.MustParsePrefix("ff00::/8"), "a multicast"},
}

// reservedClass returns the class of an address outside the public Internet, with its article; empty for a public one.
func reservedClass(address netip.Addr) string {
	address = address.Unmap().WithZone("")
	if nat64.Contains(address) {
		bytes := address.As16()
		class := reservedClass(netip.AddrFrom4([4]byte(bytes[12:])))
		if class != "" {
			class = "a NAT64 form of " + class
		}
		return class
	}
	for _, reserved := range reservedAddresses {
		if reserved.prefix.Contains(address) {
			return reserved.class
		}
	}
	if !address.Is4() && !globalUnicast.Contains(address) {
		return "a reserved"
	}
	return ""
}

// CheckHostSpelling checks that a resolver, a proxy and a browser all read a host as the same one. It refuses IPv4 addresses
// that are not four decimal numbers, and characters that some of these programs replace. The error is a *[URLError].
func CheckHostSpelling(host string) error {
	if strings.ContainsFunc(host, func(c rune) bool { return c > unicode.MaxASCII }) {
		return &URLError{Problem: "names a host that is not ASCII; write it in its ASCII form, as in xn--bcher-kva.example"}
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return nil
	}
	if strings.Contains(host, ":") || endsInNumber(host) {
		return &URLError{Problem: "names a host that ends like an IP address but is not one; write IPv4 as four decimal numbers"}
	}
	return nil
}

// endsInNumber reports whether a host's last label is a number. Browsers read every such host as an IPv4 address
// (https://url.spec.whatwg.org/#ends-in-a-number-checker).
func endsInNumber(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	last := host[strings.LastIndexByte(host, '.')+1:]
	hexadecimal, isHexadecimal := strings.CutPrefix(last, "0x")
	return last != "" && strings.Trim(last, "0123456789") == "" ||
		isHexadecimal && strings.Trim(hexadecimal, "0123456789abcdef") == ""
}

// isLocalhost reports whether a host is localhost or a name below it. By definition these are loopback (RFC 6761, section
// 6.3).
func isLocalhost(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}
