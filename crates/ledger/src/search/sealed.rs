//! Questions to a sealed segment, answered by reading its index in place.

use mintage_identity::{AgentInstance, UnixTime};

use super::{
    query::{Hit, LiveCertificate, LiveSerial},
    wanted::{Rows, Wanted},
};
use crate::{
    LedgerError,
    kind::Kind,
    seg::{
        columns::Columns,
        index::{Part, SealedIndex, Span},
    },
};

/// Records whose kinds alone are read through in the time in which one is looked at.
const KINDS_AT_ONCE: usize = 16;

impl Rows for SealedIndex {
    fn first(&self) -> u64 {
        SealedIndex::first(self)
    }

    fn count(&self) -> usize {
        SealedIndex::count(self) as usize
    }

    fn span(&self) -> Span {
        SealedIndex::span(self)
    }

    fn select(&self, wanted: &Wanted<'_>) -> Result<(Vec<u16>, usize), LedgerError> {
        let Some(names) = Names::resolve(self, wanted)? else {
            return Ok((Vec::new(), 0));
        };
        let (mut places, read_through) = candidates(self, wanted, &names)?;
        let looked = places.len() + read_through / KINDS_AT_ONCE;
        let columns = Columns::for_rows(self, places.len());
        let mut kept = Vec::new();
        for at in places.drain(..) {
            if matches(&columns, wanted, &names, at)? {
                kept.push(at);
            }
        }
        Ok((kept, looked))
    }

    fn hits(&self, places: &[u16]) -> Result<Vec<Hit>, LedgerError> {
        let columns = Columns::for_rows(self, places.len());
        places.iter().map(|at| hit(self.first(), &columns, *at)).collect()
    }

    fn certificates(&self, places: &[u16]) -> Result<Vec<LiveCertificate>, LedgerError> {
        let columns = Columns::for_rows(self, places.len());
        let certificates = places.iter().map(|at| certificate(self.first(), &columns, *at));
        certificates.filter_map(Result::transpose).collect()
    }

    fn serials(&self, places: &[u16]) -> Result<Vec<LiveSerial>, LedgerError> {
        let columns = Columns::for_rows(self, places.len());
        let serial = |at: &u16| {
            let (Some(serial), Some(issuer)) = (columns.serial(*at)?, columns.issuer(*at)?) else {
                return Ok(None);
            };
            Ok(Some(LiveSerial {
                issuer,
                serial,
                not_after: UnixTime::from_seconds(columns.value(Part::NotAfter, *at)?),
            }))
        };
        places.iter().map(serial).filter_map(Result::transpose).collect()
    }
}

fn hit(first: u64, columns: &Columns<'_>, at: u16) -> Result<Hit, LedgerError> {
    let serial = columns.serial(at)?;
    Ok(Hit {
        index: first + u64::from(at),
        kind: Kind::from_tag(columns.number(Part::Kinds, at)? as u32),
        time: UnixTime::from_millis(columns.value(Part::Times, at)?),
        spiffe_id: columns.name(Part::Identities, at)?,
        agent: columns.name(Part::Agents, at)?,
        entry: columns.name(Part::Entries, at)?,
        not_after: match serial {
            Some(_) => Some(UnixTime::from_seconds(columns.value(Part::NotAfter, at)?)),
            None => None,
        },
        serial,
    })
}

fn certificate(first: u64, columns: &Columns<'_>, at: u16) -> Result<Option<LiveCertificate>, LedgerError> {
    let (Some(serial), Some(issuer), Some(spiffe_id)) = (
        columns.serial(at)?,
        columns.issuer(at)?,
        columns.name(Part::Identities, at)?,
    ) else {
        return Ok(None);
    };
    Ok(Some(LiveCertificate {
        index: first + u64::from(at),
        issuer,
        serial,
        not_before: UnixTime::from_seconds(columns.value(Part::NotBefore, at)?),
        not_after: UnixTime::from_seconds(columns.value(Part::NotAfter, at)?),
        spiffe_id,
        agent: columns.name(Part::Agents, at)?,
        instance: AgentInstance(columns.instance(at)?),
        entry: columns.name(Part::Entries, at)?,
    }))
}

/// The names of a question as the segment's numbers.
#[derive(Default)]
struct Names {
    identities: Option<Vec<u32>>,
    agent: Option<u32>,
    entry: Option<u32>,
    /// Numbers of the identities below the prefix.
    below: Option<Vec<u32>>,
}

impl Names {
    /// `None` when the segment lacks one, so that nothing matches.
    fn resolve(index: &SealedIndex, wanted: &Wanted<'_>) -> Result<Option<Self>, LedgerError> {
        let mut names = Self::default();
        if let Some(wanted) = wanted.identities(index.span().kind_set) {
            let mut numbers = Vec::new();
            for name in wanted {
                numbers.extend(index.find(Part::Identities, &name)?);
            }
            if numbers.is_empty() {
                return Ok(None);
            }
            names.identities = Some(numbers);
        }
        for (part, name, number) in [
            (Part::Agents, wanted.agent, &mut names.agent),
            (Part::Entries, wanted.entry, &mut names.entry),
        ] {
            if let Some(name) = name {
                *number = index.find(part, name)?;
                if number.is_none() {
                    return Ok(None);
                }
            }
        }
        if wanted.prefix.is_some() {
            let all = index.names(Part::Identities)?;
            let below = (1..).zip(&all).filter(|(_, name)| wanted.prefix_fits(name));
            names.below = Some(below.map(|(number, _)| number).collect());
        }
        Ok(Some(names))
    }
}

/// Places by the condition that narrows most, and how many records were read through for them.
fn candidates(index: &SealedIndex, wanted: &Wanted<'_>, names: &Names) -> Result<(Vec<u16>, usize), LedgerError> {
    if let Some(places) = tabled(index, wanted)? {
        return Ok((places, 0));
    }
    let mut least = None;
    for (part, number) in [(Part::Agents, &names.agent), (Part::Entries, &names.entry)] {
        least = fewer(least, index, part, number.as_slice())?;
    }
    least = fewer(
        least,
        index,
        Part::Identities,
        names.identities.as_deref().unwrap_or_default(),
    )?;
    if let (None, Some(below)) = (&least, &names.below) {
        least = Some(places_of_names(index, Part::Identities, below)?);
    }
    let count = index.count() as usize;
    match least {
        Some(places) => Ok((places, 0)),
        None if wanted.kinds != u64::MAX => Ok((index.places_of_kinds(wanted.kinds)?, count)),
        None => Ok(((0..=u16::MAX).take(count).collect(), 0)),
    }
}

/// The places that have one of these names, ascending.
fn places_of_names(index: &SealedIndex, part: Part, numbers: &[u32]) -> Result<Vec<u16>, LedgerError> {
    let mut places = Vec::new();
    for number in numbers {
        places.extend(index.places_of_name(part, *number)?);
    }
    places.sort_unstable();
    Ok(places)
}

/// The places that are known, or those that have one of these names where these are fewer.
fn fewer(
    known: Option<Vec<u16>>,
    index: &SealedIndex,
    part: Part,
    numbers: &[u32],
) -> Result<Option<Vec<u16>>, LedgerError> {
    if numbers.is_empty() {
        return Ok(known);
    }
    let places = places_of_names(index, part, numbers)?;
    Ok(Some(match known {
        Some(known) if known.len() <= places.len() => known,
        _ => places,
    }))
}

/// Places out of a table, where the question names what one is of.
fn tabled(index: &SealedIndex, wanted: &Wanted<'_>) -> Result<Option<Vec<u16>>, LedgerError> {
    if let Some(serial) = wanted.serial {
        let mut places = index.places_of_serial(serial)?;
        if wanted.revocations {
            places.extend(index.places_that_revoke(serial)?);
            places.sort_unstable();
        }
        return Ok(Some(places));
    }
    if let Some(key) = wanted.key {
        return index.places_of_key(key).map(Some);
    }
    wanted.request.map(|tag| index.places_of_request(tag)).transpose()
}

/// The conditions that the candidates do not hold already; cheap and telling ones first.
fn matches(columns: &Columns<'_>, wanted: &Wanted<'_>, names: &Names, at: u16) -> Result<bool, LedgerError> {
    if let Some(numbers) = &names.identities
        && !numbers.contains(&(columns.number(Part::Identities, at)? as u32))
    {
        return Ok(false);
    }
    for (part, number) in [(Part::Agents, names.agent), (Part::Entries, names.entry)] {
        if let Some(number) = number
            && columns.number(part, at)? != u64::from(number)
        {
            return Ok(false);
        }
    }
    if let Some(below) = &names.below
        && below
            .binary_search(&(columns.number(Part::Identities, at)? as u32))
            .is_err()
    {
        return Ok(false);
    }
    if wanted.asks_kind_or_time()
        && !wanted.kind_and_time_fit(columns.number(Part::Kinds, at)? as u8, columns.value(Part::Times, at)?)
    {
        return Ok(false);
    }
    if let Some(now) = wanted.live_at
        && (columns.value(Part::NotAfter, at)? < now || columns.serial(at)?.is_none())
    {
        return Ok(false);
    }
    if let Some(instance) = wanted.instance
        && columns.instance(at)? != instance
    {
        return Ok(false);
    }
    match wanted.issuer {
        Some(issuer) => Ok(columns.issuer(at)?.as_ref() == Some(issuer)),
        None => Ok(true),
    }
}
