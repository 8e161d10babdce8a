//! Questions to a sealed segment, answered by reading its index in place.

use std::{cell::RefCell, sync::Arc};

use mintage_identity::{AgentInstance, UnixTime};

use super::{
    query::{Hit, LiveCertificate},
    wanted::{Rows, Wanted},
};
use crate::{
    LedgerError,
    kind::Kind,
    seg::index::{Part, SealedIndex, Span},
};

/// Records whose kinds alone are read through in the time in which one is looked at.
const KINDS_AT_ONCE: usize = 16;
/// From so many places on a column is read whole: one read of up to half a megabyte instead of one for each.
const WHOLE_FROM: usize = 64;

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
        let columns = Columns {
            index: self,
            whole: (places.len() >= WHOLE_FROM).then(RefCell::default),
        };
        let mut kept = Vec::new();
        for at in places.drain(..) {
            if matches(&columns, wanted, &names, at)? {
                kept.push(at);
            }
        }
        Ok((kept, looked))
    }

    fn hit(&self, at: u16) -> Result<Hit, LedgerError> {
        let serial = self.serial(at)?;
        let name = |part| Ok::<_, LedgerError>(self.name(part, self.number(part, at)? as u32)?.map(Arc::from));
        Ok(Hit {
            index: self.first() + u64::from(at),
            kind: Kind::from_tag(self.number(Part::Kinds, at)? as u32),
            time: UnixTime::from_millis(self.value(Part::Times, at)?),
            spiffe_id: name(Part::Identities)?,
            agent: name(Part::Agents)?,
            entry: name(Part::Entries)?,
            not_after: match serial {
                Some(_) => Some(UnixTime::from_seconds(self.value(Part::NotAfter, at)?)),
                None => None,
            },
            serial,
        })
    }

    fn live(&self, at: u16) -> Result<Option<LiveCertificate>, LedgerError> {
        let name = |part| Ok::<_, LedgerError>(self.name(part, self.number(part, at)? as u32)?.map(Arc::from));
        let (Some(serial), Some(issuer), Some(spiffe_id)) =
            (self.serial(at)?, self.issuer(at)?, name(Part::Identities)?)
        else {
            return Ok(None);
        };
        Ok(Some(LiveCertificate {
            index: self.first() + u64::from(at),
            issuer,
            serial,
            not_before: UnixTime::from_seconds(self.value(Part::NotBefore, at)?),
            not_after: UnixTime::from_seconds(self.value(Part::NotAfter, at)?),
            spiffe_id,
            agent: name(Part::Agents)?,
            instance: AgentInstance(self.instance(at)?),
            entry: name(Part::Entries)?,
        }))
    }
}

/// The names of a question as the segment's numbers.
#[derive(Default)]
struct Names {
    identity: Option<u32>,
    agent: Option<u32>,
    entry: Option<u32>,
    /// Numbers of the identities below the prefix.
    below: Option<Vec<u32>>,
}

impl Names {
    /// `None` when the segment lacks one, so that nothing matches.
    fn resolve(index: &SealedIndex, wanted: &Wanted<'_>) -> Result<Option<Self>, LedgerError> {
        let mut names = Self::default();
        for (part, name, number) in [
            (Part::Identities, wanted.spiffe_id, &mut names.identity),
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
    let named = [
        (Part::Identities, names.identity),
        (Part::Agents, names.agent),
        (Part::Entries, names.entry),
    ];
    let mut least: Option<Vec<u16>> = None;
    for (part, number) in named {
        if let Some(number) = number {
            let places = index.places_of_name(part, number)?;
            least = Some(match least {
                Some(known) if known.len() <= places.len() => known,
                _ => places,
            });
        }
    }
    if let (None, Some(below)) = (&least, &names.below) {
        let mut places = Vec::new();
        for number in below {
            places.extend(index.places_of_name(Part::Identities, *number)?);
        }
        places.sort_unstable();
        least = Some(places);
    }
    let count = index.count() as usize;
    match least {
        Some(places) => Ok((places, 0)),
        None if wanted.kinds != u64::MAX => Ok((index.places_of_kinds(wanted.kinds)?, count)),
        None => Ok(((0..=u16::MAX).take(count).collect(), 0)),
    }
}

/// Places out of a table, where the question names what one is of.
fn tabled(index: &SealedIndex, wanted: &Wanted<'_>) -> Result<Option<Vec<u16>>, LedgerError> {
    if let Some(serial) = wanted.serial {
        return index.places_of_serial(serial).map(Some);
    }
    if let Some(key) = wanted.key {
        return index.places_of_key(key).map(Some);
    }
    wanted.request.map(|tag| index.places_of_request(tag)).transpose()
}

/// Columns that were read whole.
type Whole = Vec<(Part, Vec<u64>)>;

/// Numbers of columns, read one by one, or each column at once.
struct Columns<'a> {
    index: &'a SealedIndex,
    whole: Option<RefCell<Whole>>,
}

impl Columns<'_> {
    fn number(&self, part: Part, at: u16) -> Result<u64, LedgerError> {
        let Some(whole) = &self.whole else {
            return self.index.number(part, at);
        };
        let mut whole = whole.borrow_mut();
        let known = whole.iter().position(|(known, _)| *known == part);
        let known = match known {
            Some(known) => known,
            None => {
                whole.push((part, self.index.numbers(part)?));
                whole.len() - 1
            }
        };
        Ok(whole[known].1.get(usize::from(at)).copied().unwrap_or(0))
    }

    fn value(&self, part: Part, at: u16) -> Result<i64, LedgerError> {
        Ok(self.index.above(part, self.number(part, at)?))
    }
}

/// The conditions that the candidates do not hold already; cheap and telling ones first.
fn matches(columns: &Columns<'_>, wanted: &Wanted<'_>, names: &Names, at: u16) -> Result<bool, LedgerError> {
    let index = columns.index;
    for (part, number) in [
        (Part::Identities, names.identity),
        (Part::Agents, names.agent),
        (Part::Entries, names.entry),
    ] {
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
        && (columns.value(Part::NotAfter, at)? < now || index.serial(at)?.is_none())
    {
        return Ok(false);
    }
    if let Some(instance) = wanted.instance
        && index.instance(at)? != instance
    {
        return Ok(false);
    }
    match wanted.issuer {
        Some(issuer) => Ok(index.issuer(at)?.as_ref() == Some(issuer)),
        None => Ok(true),
    }
}
