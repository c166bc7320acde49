// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
)

// fingerprint returns a text that stands for an access token, so that two readers can compare theirs. It is keyed with
// the config's identity, which is random and never returned. So it says nothing of the token, and is the same on each node.
func fingerprint(configID, accessToken string) string {
	mac := hmac.New(sha256.New, []byte(configID))
	mac.Write([]byte(accessToken))
	return hex.EncodeToString(mac.Sum(nil)[:8])
}
