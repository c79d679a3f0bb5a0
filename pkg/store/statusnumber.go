package store

// Numbers of the status lists are given away once and never again, also where the token that wanted one was not made.

import (
	"context"
	"time"

	"gorm.io/gorm"

	"github.com/workspace-token-service/wts/pkg/apitoken"
)

// statusNumber is a number of the status lists that is given away.
type statusNumber struct {
	ID int64 `gorm:"primaryKey;autoIncrement"`
}

// NextStatus implements apitoken.Statuses. A number that is taken and not used is a bit that is never set.
func (s *APITokens) NextStatus(ctx context.Context) (int64, error) {
	var row statusNumber
	err := s.write(ctx, func(tx *gorm.DB) error {
		row = statusNumber{}
		return tx.Create(&row).Error
	})
	return row.ID - 1, tokenError(err)
}

// LastStatus implements apitoken.Statuses.
func (s *APITokens) LastStatus(ctx context.Context) (last int64, err error) {
	err = s.run(ctx, func(tx *gorm.DB) error {
		return tx.Raw("SELECT coalesce(max(id), 0) - 1 FROM status_numbers").Scan(&last).Error
	})
	return last, tokenError(err)
}

// lapsed are the numbers of personal tokens whose users do not count. Such users are few, and found first.
const lapsed = `SELECT v.status FROM api_tokens t JOIN api_token_values v ON v.token_id = t.id
	WHERE t.kind = 'personal' AND t.format = 'jwt' AND t.audience = @audience AND v.status >= @from AND v.status < @to AND t.user_id IN (
		SELECT id FROM users WHERE disabled_at IS NOT NULL OR set_aside_at IS NOT NULL
		UNION SELECT user_id FROM connections WHERE provider = @provider
			AND (phase = 'broken' OR phase = 'disconnected' AND reason <> 'ran_out' OR refresh_expires_at < @before))`

// EndedStatuses implements apitoken.Statuses.
func (s *APITokens) EndedStatuses(ctx context.Context, from, to int64, at time.Time, lapses []apitoken.Lapse) (numbers []int64, err error) {
	err = s.run(ctx, func(tx *gorm.DB) error {
		if _, err := s.fenced(tx); err != nil { // what a failover lost may be an end
			return err
		}
		err := tx.Raw(`SELECT v.status FROM api_tokens t JOIN api_token_values v ON v.token_id = t.id WHERE t.revoked_at IS NOT NULL AND v.status >= @from AND v.status < @to
			UNION SELECT status FROM api_token_values WHERE valid_until <= @at AND status >= @from AND status < @to`,
			map[string]any{"from": from, "to": to, "at": at.UnixMilli()}).Scan(&numbers).Error
		for _, lapse := range lapses {
			if err != nil {
				return err
			}
			var more []int64
			err = tx.Raw(lapsed, map[string]any{
				"from": from, "to": to, "audience": lapse.Audience, "provider": lapse.Provider, "before": lapse.RanOutBefore.UnixMilli(),
			}).Scan(&more).Error
			numbers = append(numbers, more...)
		}
		return err
	})
	return numbers, tokenError(err)
}
