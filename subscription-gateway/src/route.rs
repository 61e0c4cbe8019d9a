//! Routes of requests whose router does not tell them.

/// A path with what looks like an id replaced, so that usage is counted by route rather than by object: segments of
/// digits, UUIDs and long hexadecimal numbers become `{id}`. At most 2,048 bytes, without query string.
///
/// ```
/// use subscription_gateway::template_of;
/// assert_eq!(template_of("/v1/users/42/orders"), "/v1/users/{id}/orders");
/// assert_eq!(template_of("/v1/files/6f1f6c4e-6f5b-4f3e-9d0b-0d9d8f0a8a01"), "/v1/files/{id}");
/// assert_eq!(template_of("*"), "/");
/// ```
pub fn template_of(path: &str) -> String {
    if !path.starts_with('/') {
        return "/".to_owned();
    }
    let mut template = String::with_capacity(path.len());
    for segment in path[1..].split('/') {
        template.push('/');
        template.push_str(if is_id(segment) { "{id}" } else { segment });
    }
    if template.len() > 2_048 {
        template.truncate((0..=2_048).rev().find(|&at| template.is_char_boundary(at)).unwrap_or(1));
    }
    template
}

fn is_id(segment: &str) -> bool {
    let bytes = segment.as_bytes();
    let digits = !bytes.is_empty() && bytes.iter().all(u8::is_ascii_digit);
    let hex = bytes.len() >= 16 && bytes.iter().all(|byte| byte.is_ascii_hexdigit() || *byte == b'-');
    digits || hex
}
