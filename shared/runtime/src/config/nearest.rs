use strsim::normalized_damerau_levenshtein as similarity;

/// Below this two names have nothing to do with each other and a suggestion would only mislead.
const ENOUGH: f64 = 0.45;

/// The known key most like `key`: either as a whole, or in its last part, for the right name in the wrong section.
pub(super) fn nearest<'a>(key: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    let wanted = last(key);
    known
        .map(|path| (similarity(key, path).max(0.9 * similarity(&wanted, &last(path))), path))
        .filter(|(score, _)| *score >= ENOUGH)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, path)| path)
}
