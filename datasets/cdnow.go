package datasets

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/csv"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

// lifetimes is the package that has CDNOW, and the one file of it that is known.
var lifetimes = pythonPackage{
	name: "lifetimes", version: "0.11.3",
	sha256: "261e3dc89977c2b60767ca6728aaa29d429de0c814635070a749c36555895da8",
}

const (
	// cdnowVersion is of the conversion: a change of what it makes is a new version.
	cdnowVersion = 1
	cdnowData    = "lifetimes/datasets/"
	// cdnowDepartment is what the shop sold.
	cdnowDepartment = "MUSIC"
)

// openCDNOW opens all customers, or the published sample of 2,357 of them under the numbers of the
// sample. A purchase has a date only; it stands at noon UTC.
func openCDNOW(ctx context.Context, name string, opt Options) (*Dataset, error) {
	c, err := openCache(opt.Cache)
	if err != nil {
		return nil, err
	}
	p := lifetimes
	h, err := c.history(ctx, name, p.sha256, cdnowVersion, func(w *historyWriter) error {
		body, err := cdnowMember(ctx, c, opt, map[string]string{"cdnow": "CDNOW_master.txt", "cdnow-sample": "CDNOW_sample.txt"}[name])
		if err != nil {
			return err
		}
		return convertCDNOW(string(body), name == "cdnow-sample", w)
	})
	if err != nil {
		return nil, err
	}
	d := ofHistory(h, time.UTC)
	d.Name, d.Digest, d.Currency = name, p.sha256, "USD"
	d.Producer = name + "-" + p.sha256[:digestLen]
	return d, nil
}

func cdnowMember(ctx context.Context, c *cache, opt Options, name string) ([]byte, error) {
	path, err := c.wheel(ctx, lifetimes, opt.Python, opt.Progress)
	if err != nil {
		return nil, err
	}
	wheel, err := zip.OpenReader(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	defer func() { _ = wheel.Close() }()
	return member(&wheel.Reader, cdnowData+name)
}

// convertCDNOW reads lines of "customer date discs dollars"; in the sample the customer's number in
// the sample comes second.
func convertCDNOW(body string, sample bool, w *historyWriter) error {
	row := 0
	for line := range strings.Lines(body) {
		f := strings.Fields(line)
		if len(f) == 0 || f[0] == "customer_id" {
			continue
		}
		row++
		if sample {
			f = f[1:]
		}
		if len(f) != 4 {
			return fmt.Errorf("cdnow: row %d has %d fields", row, len(f))
		}
		day, err := time.Parse("20060102", f[1])
		if err != nil {
			return fmt.Errorf("cdnow: row %d: %w", row, err)
		}
		discs, err := strconv.ParseUint(f[2], 10, 32)
		if err != nil {
			return fmt.Errorf("cdnow: row %d: %w", row, err)
		}
		paid, err := messages.ParseMoney(f[3])
		if err != nil {
			return fmt.Errorf("cdnow: row %d: amount %w", row, err)
		}
		if err := w.Add(&footfallv1.Event{
			EventId: "p-" + strconv.Itoa(row), CustomerId: f[0], Time: timestamppb.New(day.Add(12 * time.Hour)),
			Kind: &footfallv1.Event_Purchase{Purchase: &footfallv1.Purchase{
				BasketId: strconv.Itoa(row), Currency: "USD",
				Lines: []*footfallv1.Line{{Department: cdnowDepartment, Quantity: uint32(discs), Amount: messages.FormatMoney(paid)}},
			}},
		}, 0); err != nil {
			return err
		}
	}
	return nil
}

// CDNOWSummary is what the package says of one customer of the sample, in the terms of BG/NBD.
type CDNOWSummary struct {
	// ID is the customer_id in cdnow-sample.
	ID string
	// Frequency is the number of days with a purchase after the first; Recency from the first to the
	// last and T from the first to 1997-09-30, in weeks.
	Frequency  int
	Recency, T float64
	// Monetary is the mean spend of the days after the first; 0 without any.
	Monetary float64
}

// ReadCDNOWSummary reads the summary that the package has of the 2,357 customers of cdnow-sample
// through 1997-09-30, to compare with.
func ReadCDNOWSummary(ctx context.Context, opt Options) ([]CDNOWSummary, error) {
	c, err := openCache(opt.Cache)
	if err != nil {
		return nil, err
	}
	body, err := cdnowMember(ctx, c, opt, "cdnow_customers_summary_with_transactions.csv")
	if err != nil {
		return nil, err
	}
	rows, err := csv.NewReader(bytes.NewReader(body)).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("cdnow summary: %w", err)
	}
	var all []CDNOWSummary
	for _, row := range rows[1:] {
		var s CDNOWSummary
		var number int
		if _, err := fmt.Sscan(strings.Join(row, " "), &number, &s.Frequency, &s.Recency, &s.T, &s.Monetary); err != nil {
			return nil, fmt.Errorf("cdnow summary: %q: %w", row, err)
		}
		s.ID = fmt.Sprintf("%04d", number)
		all = append(all, s)
	}
	return all, nil
}
