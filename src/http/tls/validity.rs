//! Until when an X.509 certificate is good: the one thing about it that operators ask and that `rustls` does not tell.
//!
//! A walk through the DER of RFC 5280, no more: certificate ▸ to-be-signed ▸ version?, serial, algorithm, issuer, **validity** ▸
//! not-before, **not-after**. What does not look like it gives `None`, never a panic; nothing is decided by it but words in
//! health, and that a certificate whose time is over does not replace one that is good.

use chrono::NaiveDateTime;

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The last millisecond (Unix) at which it is good.
pub fn end(der: &[u8]) -> Option<i64> {
    let (certificate, _) = element(der, SEQUENCE)?;
    let (mut fields, _) = element(certificate, SEQUENCE)?;
    if let Some((_, rest)) = element(fields, VERSION) {
        fields = rest;
    }
    for _serial_algorithm_issuer in 0..3 {
        (_, _, fields) = any(fields)?;
    }
    let (validity, _) = element(fields, SEQUENCE)?;
    let (_, _, rest) = any(validity)?;
    let (kind, text, _) = any(rest)?;
    let text = std::str::from_utf8(text).ok()?;
    let text = match kind {
        // Two digits of a year: 1950 to 2049.
        UTC_TIME => format!("{}{text}", if text.get(..2)? < "50" { "20" } else { "19" }),
        GENERALIZED_TIME => text.to_owned(),
        _ => return None,
    };
    let end = NaiveDateTime::parse_from_str(&text, "%Y%m%d%H%M%SZ").ok()?;
    Some(end.and_utc().timestamp_millis() + 999)
}

/// The contents of an element of this kind, and what follows it.
fn element(der: &[u8], kind: u8) -> Option<(&[u8], &[u8])> {
    let (found, contents, rest) = any(der)?;
    (found == kind).then_some((contents, rest))
}

/// Kind, contents and what follows.
fn any(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&kind, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (len, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        // At most four bytes of length: a file is at most 1 MiB.
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
            (digits.iter().fold(0, |len, digit| len << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    let (contents, rest) = rest.split_at_checked(len)?;
    Some((kind, contents, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(year: i32) -> Vec<u8> {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new(vec!["h".to_owned()]).expect("a name");
        params.not_after = rcgen::date_time_ymd(year, 2, 3);
        params.self_signed(&key).expect("signed").der().to_vec()
    }

    #[test]
    fn the_end_of_a_certificate_is_read_in_both_forms_of_time_and_nothing_else_is_taken_for_one() {
        for (year, seconds) in [(2031, 1_927_843_200), (2049, 2_495_923_200), (2050, 2_527_459_200), (2200, 7_260_969_600)] {
            let want = chrono::NaiveDate::from_ymd_opt(year, 2, 3)
                .expect("a day")
                .and_hms_opt(0, 0, 0)
                .expect("midnight");
            assert_eq!(want.and_utc().timestamp(), seconds, "{year}");
            assert_eq!(end(&certificate(year)), Some(seconds * 1000 + 999), "{year}");
        }
        let good = certificate(2031);
        // Cut off anywhere before the time ends, or with any byte of the way to it turned around: an answer, never a panic.
        assert_eq!(end(&[]), None);
        for at in 0..good.len() {
            let _ = end(&good[..at]);
            let mut bent = good.clone();
            bent[at] ^= 0xff;
            let _ = end(&bent);
        }
        assert_eq!(end(&good[..40]), None);
        assert_eq!(end(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 0x30]), None);
        assert_eq!(end(&[0x30, 0x80, 0x30, 0x80, 0, 0]), None, "indefinite length is not DER");
    }
}
