// SPDX-License-Identifier: MPL-2.0

package simulator

// NewWith returns a simulator of the vendors that a description describes.
func NewWith(text string) (*Simulator, error) {
	d, err := parseDescription([]byte(text))
	if err != nil {
		return nil, err
	}
	s := New()
	for _, build := range newDescribed([]*description{d}) {
		s.add(newProvider(build))
	}
	return s, nil
}
