//! Routes of requests whose router does not tell them.

use std::borrow::Cow;

/// A path with what looks like an id replaced, so that usage is counted by route rather than by object: segments of
/// digits, UUIDs and long hexadecimal numbers become `{id}`. At most 2,048 bytes, without query string.
///
/// Ways to write the same path are one, or a limit of a route could be walked around: unreserved characters are not
/// percent-encoded, there are no dot segments (RFC 3986, section 6.2.2), and slashes side by side are one.
///
/// ```
/// use subscription_gateway::template_of;
/// assert_eq!(template_of("/v1/users/42/orders"), "/v1/users/{id}/orders");
/// assert_eq!(template_of("/v1/files/6f1f6c4e-6f5b-4f3e-9d0b-0d9d8f0a8a01"), "/v1/files/{id}");
/// assert_eq!(template_of("//v1/./x/../%72eports%2f"), "/v1/reports%2F");
/// assert_eq!(template_of("*"), "/");
/// ```
pub fn template_of(path: &str) -> String {
    if !path.starts_with('/') {
        return "/".to_owned();
    }
    let mut template = String::with_capacity(path.len());
    let mut segments = path[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        let segment = decoded(segment);
        let is_last = segments.peek().is_none();
        match &*segment {
            ".." => template.truncate(template.rfind('/').unwrap_or(0)),
            "." => {}
            "" if !is_last => continue,
            segment => {
                template.push('/');
                template.push_str(if is_id(segment) { "{id}" } else { segment });
                continue;
            }
        }
        // Of a dot segment at the end the slash before it stays.
        if is_last {
            template.push('/');
        }
    }
    if template.len() > 2_048 {
        template.truncate((0..=2_048).rev().find(|&at| template.is_char_boundary(at)).unwrap_or(1));
    }
    template
}

/// Without percent-encoding where none is needed, and in capitals where it is.
fn decoded(segment: &str) -> Cow<'_, str> {
    if !segment.contains('%') {
        return segment.into();
    }
    let mut text = String::with_capacity(segment.len());
    let mut rest = segment;
    while let Some((before, encoded)) = rest.split_once('%') {
        text.push_str(before);
        let digits = encoded.get(..2).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match byte {
            Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => text.push(char::from(byte)),
            Some(_) => {
                text.extend(['%'].into_iter().chain(encoded[..2].chars().map(|digit| digit.to_ascii_uppercase())))
            }
            None => text.push('%'),
        }
        rest = if byte.is_some() { &encoded[2..] } else { encoded };
    }
    text.push_str(rest);
    text.into()
}

fn is_id(segment: &str) -> bool {
    let bytes = segment.as_bytes();
    let digits = !bytes.is_empty() && bytes.iter().all(u8::is_ascii_digit);
    let hex = bytes.len() >= 16 && bytes.iter().all(|byte| byte.is_ascii_hexdigit() || *byte == b'-');
    digits || hex
}
