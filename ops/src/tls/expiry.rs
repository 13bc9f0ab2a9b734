//! Until when a certificate is good: the one field that a person has to know of in time. It reads no other, and decides
//! nothing: whether a certificate is believed is rustls' affair.

use domain::Timestamp;

/// Tags of DER (X.690 §8).
const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
/// `[0]`, explicit.
const VERSION: u8 = 0xa0;

/// `notAfter` of a certificate in DER (RFC 5280 §4.1); `None` for what is none.
pub(super) fn not_after(certificate: &[u8]) -> Option<Timestamp> {
    let (certificate, _) = element(certificate, SEQUENCE)?;
    let (mut fields, _) = element(certificate, SEQUENCE)?;
    if let Some((_, rest)) = element(fields, VERSION) {
        fields = rest;
    }
    // Serial number, algorithm of the signature, issuer.
    for before in [INTEGER, SEQUENCE, SEQUENCE] {
        fields = element(fields, before)?.1;
    }
    let (validity, _) = element(fields, SEQUENCE)?;
    let (_, rest) = time(validity)?;
    Some(time(rest)?.0)
}

/// The content of the element that `bytes` begin with, and what is behind it; `None` for another tag.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first.checked_sub(0x80) {
        None => (usize::from(*first), rest),
        // The long form; more than 64 KiB no certificate has.
        Some(digits @ 1..=2) => {
            let (digits, rest) = rest.split_at_checked(usize::from(digits))?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
        Some(_) => return None,
    };
    (*found == tag).then(|| rest.split_at_checked(length))?
}

/// A time in either form, in UTC and with seconds, as RFC 5280 §4.1.2.5 demands; and what is behind it.
fn time(bytes: &[u8]) -> Option<(Timestamp, &[u8])> {
    let (century, (text, rest)) = match element(bytes, UTC_TIME) {
        // Years 50 to 99 are those of the century before.
        Some((text, rest)) => (if *text.first()? < b'5' { "20" } else { "19" }, (text, rest)),
        None => ("", element(bytes, GENERALIZED_TIME)?),
    };
    let text = format!("{century}{}", std::str::from_utf8(text).ok().filter(|text| text.is_ascii())?);
    let [year, month, day] = [text.get(..4)?, text.get(4..6)?, text.get(6..8)?];
    let [hour, minute, second] = [text.get(8..10)?, text.get(10..12)?, text.get(12..14)?];
    let instant = format!("{year}-{month}-{day}T{hour}:{minute}:{second}{}", text.get(14..)?);
    Some((Timestamp::parse_rfc3339(&instant).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn certificate(year: i32) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        params.not_before = date_time_ymd(1999, 12, 31);
        params.not_after = date_time_ymd(year, 5, 6);
        params.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate").der().to_vec()
    }

    #[test]
    fn both_forms_of_time_are_read() {
        for (year, text) in
            [(2031, "2031-05-06T00:00:00Z"), (2049, "2049-05-06T00:00:00Z"), (2051, "2051-05-06T00:00:00Z")]
        {
            assert_eq!(not_after(&certificate(year)), Some(Timestamp::parse_rfc3339(text).expect("an instant")));
        }
    }

    #[test]
    fn what_is_cut_off_anywhere_says_nothing_and_breaks_nothing() {
        let whole = certificate(2031);
        for length in 0..whole.len() {
            assert_eq!(not_after(&whole[..length]), None, "the outermost length is too long for {length} bytes");
        }
    }
}
