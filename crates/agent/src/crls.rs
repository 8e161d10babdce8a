//! Lists of revoked certificates for software that speaks only X.509: the newest of each CA key, verified against the
//! bundle before it is held, written beside the bundle or handed to callers of the socket.
//!
//! A list that does not verify changes nothing, and none gives way to an older one while it holds.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use mintage_identity::{IssuerKeyId, UnixTime};
use mintage_proto::workload::{X509BundlesResponse, X509svidResponse};
use mintage_svid::{
    CertInfo, Crl,
    pem::{Label, encode},
};
use prost::Message as _;

use crate::{
    bundle::Bundle,
    limits::{CRLS_BYTES_MAX, CRLS_ON_SOCKET_BYTES_MAX},
};

/// The lists in force; replaced whole.
#[derive(Debug, Default)]
pub(crate) struct Crls {
    lists: BTreeMap<IssuerKeyId, Arc<Crl>>,
    /// Whose list goes first where not all fit.
    order: Vec<IssuerKeyId>,
    pem: OnceLock<String>,
    in_x509_svids: OnceLock<Bytes>,
    in_x509_bundles: OnceLock<Bytes>,
}

/// What became of a list.
pub(crate) enum Taken {
    /// It takes its place among these.
    New(IssuerKeyId, Crls),
    /// It is held already.
    Known,
}

impl Crls {
    /// These lists with this one (DER), and without those of keys that the bundle has no more.
    ///
    /// # Errors
    /// Refuses what is no list, one that no CA key of the bundle signed, one that is over, one that is older than the one
    /// held, and more bytes than the limit.
    pub(crate) fn with(&self, der: &[u8], bundle: &Bundle, now: UnixTime) -> Result<Taken, String> {
        let list = Crl::parse(der).map_err(|error| error.to_string())?;
        let signers = bundle.signers();
        let signer = signers.iter().find(|signer| list.verify(signer).is_ok());
        let signer = signer.ok_or("no CA key of the trust bundle has signed it")?.key_id();
        if list.next_update() < now {
            return Err(format!("that of key {signer} is over"));
        }
        // A list that is over holds nobody back: its number may come from a clock that was wrong.
        if let Some(held) = self.lists.get(&signer).filter(|held| held.next_update() >= now) {
            if held.der() == list.der() {
                return Ok(Taken::Known);
            }
            if list.number() <= held.number() {
                let (old, new) = (held.number(), list.number());
                return Err(format!("the number of that of key {signer} goes from {old} to {new}"));
            }
        }
        let mut lists = self.lists.clone();
        lists.retain(|key, _| signers.iter().any(|signer| signer.key_id() == *key));
        lists.insert(signer, Arc::new(list));
        let lists = Self {
            lists,
            order: in_order(signers),
            ..Self::default()
        };
        match lists.total_bytes() {
            ..=CRLS_BYTES_MAX => Ok(Taken::New(signer, lists)),
            bytes => Err(format!(
                "with that of key {signer} all lists have {bytes} bytes, the limit is {CRLS_BYTES_MAX}; those held stay. Lists \
                 become shorter as what was revoked ends: shorter lifetimes end it sooner (ca.max_ttl)"
            )),
        }
    }

    /// Every list as PEM, one block after the other; none when there is no list. Made once, and for nobody who does not ask.
    pub(crate) fn pem(&self) -> Option<&str> {
        let make = || {
            let blocks = self.lists.values().map(|list| encode(Label::Crl, list.der()));
            let mut text = String::with_capacity(self.total_bytes() / 2 * 3);
            blocks.for_each(|block| text.push_str(&block));
            text
        };
        (!self.lists.is_empty()).then(|| self.pem.get_or_init(make).as_str())
    }

    /// The lists that fit into so many bytes, those that go first before others, and the keys of those that do not.
    fn within(&self, bytes_max: usize) -> (Vec<&Crl>, Vec<IssuerKeyId>) {
        let (mut room, mut fit, mut left_out) = (bytes_max, Vec::new(), Vec::new());
        for (key, list) in self.order.iter().filter_map(|key| self.lists.get_key_value(key)) {
            match room.checked_sub(list.der().len()) {
                Some(rest) => {
                    room = rest;
                    fit.push(&**list);
                }
                None => left_out.push(*key),
            }
        }
        (fit, left_out)
    }

    /// The lists as the SPIFFE Workload API has them, as far as they fit into one answer.
    fn for_socket(&self) -> Vec<Vec<u8>> {
        let (fit, _) = self.within(CRLS_ON_SOCKET_BYTES_MAX);
        fit.into_iter().map(|list| list.der().to_vec()).collect()
    }

    /// The keys whose lists callers of the Workload API do not get.
    pub(crate) fn left_out_on_socket(&self) -> Vec<IssuerKeyId> {
        self.within(CRLS_ON_SOCKET_BYTES_MAX).1
    }

    /// The same as a part of the answer with identities, encoded once for all callers.
    pub(crate) fn in_x509_svids(&self) -> Bytes {
        let part = || X509svidResponse {
            crl: self.for_socket(),
            ..X509svidResponse::default()
        };
        self.in_x509_svids.get_or_init(|| part().encode_to_vec().into()).clone()
    }

    /// The same as a part of the answer with bundles alone.
    pub(crate) fn in_x509_bundles(&self) -> Bytes {
        let part = || X509BundlesResponse {
            crl: self.for_socket(),
            ..X509BundlesResponse::default()
        };
        self.in_x509_bundles
            .get_or_init(|| part().encode_to_vec().into())
            .clone()
    }

    /// The lists by the keys that signed them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&IssuerKeyId, &Arc<Crl>)> {
        self.lists.iter()
    }

    /// Octets of all lists together; 0 when there is none.
    pub(crate) fn total_bytes(&self) -> usize {
        self.lists.values().map(|list| list.der().len()).sum()
    }
}

/// Issuing keys before roots, and the newest first: that is the one that issues now.
fn in_order(mut signers: Vec<CertInfo>) -> Vec<IssuerKeyId> {
    signers.sort_by_key(|signer| (signer.is_self_issued(), Reverse(signer.not_before()), signer.key_id()));
    signers.iter().map(CertInfo::key_id).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use mintage_identity::TrustDomain;
    use mintage_proto::{
        CrlAssembly,
        v1::{CrlChunk, TrustBundle},
    };
    use mintage_svid::limits::CRL_BYTES_MAX;
    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod,
        KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
    };

    use super::*;

    pub(crate) struct Ca {
        der: Vec<u8>,
        issuer: Issuer<'static, KeyPair>,
    }

    impl Ca {
        pub(crate) fn issuer(&self) -> &Issuer<'static, KeyPair> {
            &self.issuer
        }
    }

    pub(crate) fn ca(name: &str) -> Ca {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(SerialNumber::from(1u64));
        let key = KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().to_vec();
        let issuer = Issuer::new(params, key);
        Ca { der, issuer }
    }

    pub(crate) fn list(ca: &Ca, number: u64) -> Vec<u8> {
        list_of(ca, number, 0)
    }

    /// A list of so many entries.
    pub(crate) fn list_of(ca: &Ca, number: u64, entries: u64) -> Vec<u8> {
        let revoked = |serial: u64| RevokedCertParams {
            serial_number: SerialNumber::from(u64::MAX / 2 - serial),
            revocation_time: rcgen::date_time_ymd(2026, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2026, 1, 1),
            next_update: rcgen::date_time_ymd(2026, 1, 2),
            crl_number: number.into(),
            issuing_distribution_point: None,
            revoked_certs: (0..entries).map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&ca.issuer).unwrap().der().to_vec()
    }

    pub(crate) fn bundle(cas: &[&Ca]) -> Bundle {
        let wire = TrustBundle {
            trust_domain: TrustDomain::parse("dev.test").unwrap().to_string(),
            sequence: 1,
            roots: cas.iter().map(|ca| ca.der.clone()).collect(),
            ..TrustBundle::default()
        };
        Bundle::from_wire(&wire).unwrap()
    }

    pub(crate) const NOW: UnixTime = UnixTime::from_seconds(1_767_225_700);

    pub(crate) fn new(taken: Result<Taken, String>) -> Crls {
        match taken {
            Ok(Taken::New(_, crls)) => crls,
            Ok(Taken::Known) => panic!("it is known"),
            Err(problem) => panic!("{problem}"),
        }
    }

    #[test]
    fn hostile_bytes_are_refused_and_the_last_good_list_stays() {
        let (one, other) = (ca("one"), ca("other"));
        let ours = bundle(&[&one]);
        let held = new(Crls::default().with(&list(&one, 7), &ours, NOW));
        let told = |der: &[u8], now| held.with(der, &ours, now).err().unwrap_or_default();
        assert!(told(&list(&other, 8), NOW).contains("no CA key"));
        assert!(told(b"-----BEGIN X509 CRL-----", NOW).contains("DER"));
        assert!(told(&list(&one, 6), NOW).contains("from 7 to 6"), "an older one");
        assert!(
            told(&list(&one, 7), NOW).contains("from 7 to 7"),
            "another of the same number"
        );
        let mut damaged = list(&one, 8);
        *damaged.last_mut().unwrap() ^= 1;
        assert!(!told(&damaged, NOW).is_empty());
        let late = NOW.plus(Duration::from_secs(2 * 86_400));
        assert!(told(&list(&one, 8), late).contains("over"));
        assert_eq!(held.iter().map(|(_, list)| list.number()).collect::<Vec<_>>(), [7]);
        let newer = new(held.with(&list(&one, 8), &ours, NOW));
        assert_eq!(newer.pem().unwrap().matches("BEGIN").count(), 1);
        assert_eq!(
            newer.pem().map(str::as_ptr),
            newer.pem().map(str::as_ptr),
            "encoded once"
        );
    }

    #[test]
    fn a_list_of_a_key_that_left_the_bundle_goes() {
        let (one, other) = (ca("one"), ca("other"));
        let both = bundle(&[&one, &other]);
        let held = new(Crls::default().with(&list(&one, 1), &both, NOW));
        let held = new(held.with(&list(&other, 1), &both, NOW));
        assert_eq!(held.for_socket().len(), 2);
        let told = X509svidResponse::decode(held.in_x509_svids()).unwrap();
        assert_eq!(told.crl, held.for_socket());
        let told = X509BundlesResponse::decode(held.in_x509_bundles()).unwrap();
        assert_eq!(told.crl, held.for_socket());
        assert_eq!(
            held.in_x509_svids().as_ptr(),
            held.in_x509_svids().as_ptr(),
            "encoded once"
        );
        assert_eq!(
            new(held.with(&list(&other, 2), &bundle(&[&other]), NOW))
                .for_socket()
                .len(),
            1
        );
        assert_eq!(Crls::default().pem(), None);
    }

    /// What an issuing certificate below `root` certifies, valid from the year `from` on.
    fn issuing(root: &Ca, name: &str, from: i32) -> Ca {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(SerialNumber::from(2u64));
        let key = KeyPair::generate().unwrap();
        let der = params.signed_by(&key, &root.issuer).unwrap().der().to_vec();
        let issuer = Issuer::new(params, key);
        Ca { der, issuer }
    }

    #[test]
    fn lists_that_do_not_fit_into_an_answer_are_left_out_alone_and_those_of_the_newest_issuing_key_go_first() {
        let root = ca("root");
        let (old, newest) = (issuing(&root, "old", 2020), issuing(&root, "newest", 2025));
        let mut wire = bundle(&[&root]).to_wire();
        wire.issuers = vec![old.der.clone(), newest.der.clone()];
        let bundle = Bundle::from_wire(&wire).unwrap();
        let with = |held: Crls, ca, entries| new(held.with(&list_of(ca, 1, entries), &bundle, NOW));
        let all = with(with(with(Crls::default(), &root, 0), &old, 2), &newest, 1);
        let keys = |crls: &Crls| -> Vec<IssuerKeyId> { crls.order.clone() };
        let bytes: Vec<usize> = keys(&all).iter().map(|key| all.lists[key].der().len()).collect();
        let entries = |within: &(Vec<&Crl>, Vec<IssuerKeyId>)| -> Vec<usize> {
            within.0.iter().map(|list| list.entries()).collect()
        };
        let whole = all.within(bytes.iter().sum());
        assert_eq!((entries(&whole), whole.1.len()), (vec![1, 2, 0], 0));
        let one_less = all.within(bytes.iter().sum::<usize>() - 1);
        assert_eq!(
            (entries(&one_less), &one_less.1),
            (vec![1, 2], &keys(&all)[2..].to_vec())
        );
        let middle_too_long = all.within(bytes[0] + bytes[2]);
        assert_eq!(entries(&middle_too_long), [1, 0], "a shorter one after it still fits");
        assert_eq!(all.within(bytes[0].min(bytes[2]) - 1).1, keys(&all));

        assert_eq!((all.for_socket().len(), all.left_out_on_socket().len()), (3, 0));
        let long = with(Crls::default(), &newest, 50_000);
        let long = new(long.with(&list(&root, 1), &bundle, NOW));
        assert!(long.total_bytes() > CRLS_ON_SOCKET_BYTES_MAX);
        assert_eq!(long.left_out_on_socket(), keys(&long)[..1]);
        let told = X509BundlesResponse::decode(long.in_x509_bundles()).unwrap();
        assert_eq!(told.crl, [list_in(&long, 2)]);
    }

    /// The list that stands at this place of the order.
    fn list_in(crls: &Crls, at: usize) -> Vec<u8> {
        crls.lists[&crls.order[at]].der().to_vec()
    }

    #[test]
    fn a_list_that_is_cut_off_gives_nothing_and_the_next_stream_begins_anew() {
        /// Far below the length of a list, which its signature changes by some octets.
        const PIECE: usize = 64;
        let one = ca("one");
        let ours = bundle(&[&one]);
        let held = new(Crls::default().with(&list(&one, 7), &ours, NOW));
        let next = list(&one, 8);
        let chunks = |der: &[u8]| -> Vec<CrlChunk> {
            let pieces = der.chunks(PIECE).enumerate();
            let chunk = |(at, piece): (usize, &[u8])| CrlChunk {
                issuer_key_id: vec![1; 32],
                number: 8,
                offset: (at * PIECE) as u64,
                total: der.len() as u64,
                data: piece.to_vec(),
                is_last: false,
            };
            pieces.map(chunk).collect()
        };
        let whole = chunks(&next);
        assert!(whole.len() > 2);
        for cut in 1..whole.len() {
            let mut parts = CrlAssembly::new(CRL_BYTES_MAX);
            for chunk in &whole[..cut] {
                assert_eq!(parts.add(chunk.clone()), Ok(None));
            }
            // What came of it so far is no list either.
            assert!(held.with(&next[..cut * PIECE], &ours, NOW).is_err());
            // The stream that is opened next sends the list from its beginning, and what was held is still there for it.
            let mut again = None;
            for chunk in &whole {
                again = parts.add(chunk.clone()).unwrap();
            }
            let newer = new(held.with(&again.unwrap(), &ours, NOW));
            assert_eq!(newer.iter().map(|(_, list)| list.number()).collect::<Vec<_>>(), [8]);
        }
        assert_eq!(held.iter().map(|(_, list)| list.number()).collect::<Vec<_>>(), [7]);
    }
}
