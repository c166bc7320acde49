// SPDX-License-Identifier: MPL-2.0

package provider_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"vault-plugin-secrets-marketplace/provider"
)

// classOf returns the class of address as which the policy refuses a host; empty if it accepts the host.
func classOf(t *testing.T, host string) string {
	t.Helper()
	if strings.Contains(host, ":") {
		host = "[" + strings.ReplaceAll(host, "%", "%25") + "]"
	}
	err := provider.NetworkPolicy{}.CheckLiteral("https://" + host + "/token")
	if err == nil {
		return ""
	}
	var refused *provider.URLError
	if !errors.As(err, &refused) || refused.Remedy != provider.RemedyPrivateAddresses {
		t.Fatalf("%s: %v", host, err)
	}
	class, isAddress := strings.CutPrefix(refused.Problem, "leads to ")
	class, ends := strings.CutSuffix(class, " address, which is not allowed")
	if !isAddress || !ends {
		t.Fatalf("%s: %v", host, err)
	}
	if open := (provider.NetworkPolicy{AllowPrivateAddresses: true}).CheckLiteral("https://" + host + "/token"); open != nil {
		t.Errorf("%s is refused though private addresses are allowed: %v", host, open)
	}
	return class
}

// The hosts are outside the public Internet and include the edges of the reserved ranges.
func TestAddresses_Refused(t *testing.T) {
	t.Parallel()
	for class, hosts := range map[string][]string{
		"a cloud metadata": {
			"169.254.169.254", "169.254.170.2", "169.254.170.23", "168.63.129.16", "100.100.100.200", "192.0.0.192",
			"fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fe80::a9fe:a9fe", "fe80::a9fe:a9fe%eth0", "::ffff:168.63.129.16",
		},
		"a loopback":                       {"127.0.0.1", "127.255.255.255", "::1", "::1%lo", "::ffff:127.0.0.1", "localhost", "LOCALHOST.", "a.localhost"},
		"a private":                        {"10.0.0.0", "10.255.255.255", "172.16.0.0", "172.31.255.255", "192.168.0.0", "192.168.255.255", "::ffff:10.0.0.1"},
		"a shared (RFC 6598)":              {"100.64.0.0", "100.127.255.255"},
		"a link-local":                     {"169.254.0.0", "169.254.255.255", "fe80::", "fe80::1%eth0", "febf:ffff::"},
		"a site-local":                     {"fec0::", "feff:ffff::"},
		"a unique-local":                   {"fc00::", "fdff:ffff::"},
		"an unspecified":                   {"0.0.0.0", "0.255.255.255", "::"},
		"an IPv4-compatible":               {"::2", "::7f00:1", "::8.8.8.8", "::255.255.255.255"},
		"an IPv4-translated":               {"::ffff:0:127.0.0.1", "::ffff:0:8.8.8.8"},
		"a local NAT64":                    {"64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:808:808"},
		"a 6to4":                           {"2002::", "2002:808:808::", "2002:ffff:ffff::"},
		"a 6to4 relay":                     {"192.88.99.0", "192.88.99.255"},
		"a Teredo":                         {"2001::", "2001:0:ffff::"},
		"an IETF protocol":                 {"192.0.0.0", "192.0.0.8", "192.0.0.11", "192.0.0.255", "2001:1::", "2001:1::4", "2001:4:111::", "2001:1ff:ffff::"},
		"an ORCHID":                        {"2001:10::", "2001:1f:ffff::"},
		"a benchmarking":                   {"198.18.0.0", "198.19.255.255", "2001:2::", "2001:2:0:ffff::"},
		"a documentation":                  {"192.0.2.0", "198.51.100.255", "203.0.113.1", "2001:db8::", "2001:db8:ffff::", "3fff::", "3fff:fff:ffff::"},
		"a discard-only":                   {"100::", "100::ffff:ffff:ffff:ffff"},
		"a segment routing":                {"5f00::", "5f00:ffff::"},
		"a multicast":                      {"224.0.0.0", "239.255.255.255", "ff00::", "ff02::1", "ffff::"},
		"a broadcast":                      {"255.255.255.255"},
		"a reserved":                       {"240.0.0.0", "255.255.255.254", "64:ff9a::1", "64:ff9b:2::", "100:0:0:1::", "200::", "400::", "1fff:ffff::", "4000::", "5f01::", "8000::", "fe00::", "::1:0:0:0"},
		"a NAT64 form of a private":        {"64:ff9b::10.0.0.1"},
		"a NAT64 form of a loopback":       {"64:ff9b::127.0.0.1"},
		"a NAT64 form of a cloud metadata": {"64:ff9b::169.254.169.254", "64:ff9b::168.63.129.16"},
		"a NAT64 form of an unspecified":   {"64:ff9b::"},
	} {
		for _, host := range hosts {
			if got := classOf(t, host); got != class {
				t.Errorf("%s is %q, want %q", host, got, class)
			}
		}
	}
}

func TestAddresses_Accepted(t *testing.T) {
	t.Parallel()
	for _, host := range []string{
		"1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "168.63.129.15", "172.32.0.0", "192.0.0.9", "192.0.0.10",
		"192.0.1.0", "192.31.196.1", "192.52.193.1", "192.175.48.1", "198.20.0.0", "223.255.255.255", "::ffff:8.8.8.8",
		"2000::", "2001:200::", "2001:1::1", "2001:1::2", "2001:1::3", "2001:3::1", "2001:4:112::1", "2001:20::1", "2001:30::1",
		"2001:db7:ffff::", "2001:db9::", "2003::1", "2606:4700::1", "2620:4f:8000::1", "3ffe::", "3fff:1000::", "3fff:ffff::",
		"64:ff9b::8.8.8.8", "64:ff9b::808:808", "auth.example.com", "localhost.example.com",
	} {
		if class := classOf(t, host); class != "" {
			t.Errorf("%s is refused as %s address", host, class)
		}
	}
}

// FuzzAddress checks the policy against the standard library. An address that the policy accepts must be global unicast in each
// of its forms.
func FuzzAddress(f *testing.F) {
	for _, text := range []string{"8.8.8.8", "127.0.0.1", "::ffff:0:7f00:1", "64:ff9b::808:808", "2001:2::1", "fe80::1", "2606:4700::1"} {
		address := netip.MustParseAddr(text).As16()
		f.Add(address[:])
	}
	nat64, unicast := netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("2000::/3")
	f.Fuzz(func(t *testing.T, raw []byte) {
		address, ok := netip.AddrFromSlice(raw)
		if !ok {
			t.Skip()
		}
		class := classOf(t, address.String())
		plain := address.Unmap()
		if zoned := address.WithZone("eth0"); plain.Is6() && classOf(t, zoned.String()) != class {
			t.Errorf("%s is another kind of address with a zone", address)
		}
		if plain.Is4() {
			as16 := plain.As16()
			embedded := netip.AddrFrom16([16]byte(append(append([]byte{0, 0x64, 0xff, 0x9b}, make([]byte, 8)...), as16[12:]...)))
			if mapped := classOf(t, netip.AddrFrom16(as16).String()); mapped != class || (classOf(t, embedded.String()) == "") != (class == "") {
				t.Errorf("%s is %q, mapped %q, embedded %q", plain, class, mapped, classOf(t, embedded.String()))
			}
		}
		if class != "" {
			if !strings.HasPrefix(class, "a ") && !strings.HasPrefix(class, "an ") {
				t.Errorf("%s: %q has no article", address, class)
			}
			return
		}
		if plain.Is6() && nat64.Contains(plain) {
			as16 := plain.As16()
			plain = netip.AddrFrom4([4]byte(as16[12:]))
		}
		if !plain.IsGlobalUnicast() || plain.IsPrivate() || plain.IsLoopback() || plain.IsLinkLocalUnicast() || plain.IsMulticast() ||
			plain.IsUnspecified() || plain.Is6() && !unicast.Contains(plain) {
			t.Errorf("%s is accepted", address)
		}
	})
}

// Resolvers, proxies and browsers differ in how they read these spellings of an address.
func TestHosts_WithAmbiguousSpelling(t *testing.T) {
	t.Parallel()
	private := provider.NetworkPolicy{AllowPrivateAddresses: true}
	for _, host := range []string{
		"0x7f.1", "0x7f.0.0.1", "0X7F000001", "2130706433", "0177.0.0.1", "127.1", "127.0.1", "127.0.0.1.", "127.0.0.01", "1.2.3.4.5",
		"a.0x7f", "auth.example.1", "auth.example.0x", "256.1.1.1", "1.1.1.256", "[::1.2.3]", "[::zz]", "[1.2.3.4]", "127。0。0。1",
		"１２７.0.0.1", "%EF%BC%91.0.0.1", "bücher.example",
	} {
		for _, policy := range []provider.NetworkPolicy{{}, private} {
			if err := policy.CheckURL("https://" + host + "/token"); err == nil {
				t.Errorf("%s is accepted", host)
			}
		}
		if err := private.CheckURL("http://" + host + "/token"); err == nil {
			t.Errorf("%s is accepted as loopback", host)
		}
	}
	for _, host := range []string{
		"127.0.0.1", "8.8.8.8:8443", "[::1]", "[fe80::1%25eth0]", "auth.example.com", "auth.example.com.", "1.example.com", "0x7f.example.com",
		"xn--bcher-kva.example", "localhost", "localhost.", "a_b.example", "123abc", "x0x7f",
	} {
		if err := private.CheckURL("https://" + host + "/token"); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
	for _, host := range []string{"127.0.0.1:8200", "localhost", "localhost.", "LOCALHOST", "[::1]", "[::ffff:127.0.0.1]"} {
		if err := private.CheckURL("http://" + host + "/token"); err != nil {
			t.Errorf("http for %s: %v", host, err)
		}
	}
}
