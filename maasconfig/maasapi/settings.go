package maasapi

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
)

// MAAS's settings about its own notice of expiry (MAAS fact 3.1).
const (
	noticeEnabled  = "tls_cert_expiration_notification_enabled"
	noticeInterval = "tls_cert_expiration_notification_interval"
)

// longestNotice is how many days before a certificate's end MAAS tells of it at the most.
const longestNotice = 90

// ExpiryNotice is how many days before the certificate's end MAAS tells of it; 0: it does not.
func (c *Client) ExpiryNotice(ctx context.Context) (days int, err error) {
	var enabled bool
	var interval *int // one that is empty stands for none
	err = c.call(ctx, maxAnswer, func(a api) error {
		for _, one := range []struct {
			name string
			into any
		}{{noticeEnabled, &enabled}, {noticeInterval, &interval}} {
			text, err := a.MAASServer.Get(one.name)
			if err == nil {
				err = json.Unmarshal(text, one.into)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || !enabled || interval == nil {
		return 0, c.named(err)
	}
	return *interval, nil
}

// AlignExpiryNotice has MAAS tell of the certificate's end so many days before, 1 to longestNotice, or not at all for 0. Nothing is
// written that is so already. It never writes an empty value, which would make every region deaf (MAAS fact 3.1).
func (c *Client) AlignExpiryNotice(ctx context.Context, days int) (changed bool, err error) {
	if days < 0 || days > longestNotice {
		return false, errors.New("MAAS tells 1 to 90 days before a certificate ends")
	}
	wanted := []struct{ name, value string }{{noticeEnabled, strconv.FormatBool(days > 0)}}
	if days > 0 { // the days come first: a switch that is on with other days would cry wolf meanwhile
		wanted = append([]struct{ name, value string }{{noticeInterval, strconv.Itoa(days)}}, wanted...)
	}
	for _, one := range wanted {
		err := c.call(ctx, maxAnswer, func(a api) error {
			text, err := a.MAASServer.Get(one.name)
			if err != nil {
				return err
			}
			var have any
			if err := json.Unmarshal(text, &have); err != nil {
				return err
			}
			if now, err := json.Marshal(have); err == nil && string(now) == one.value {
				return nil
			}
			if err := a.MAASServer.Post(one.name, one.value); err != nil {
				return err
			}
			changed = true
			return nil
		})
		if err != nil {
			return changed, c.named(err)
		}
	}
	return changed, nil
}
