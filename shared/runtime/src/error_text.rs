use std::error::Error;

/// An error with its causes, in one line: each says what the one before does not.
pub fn error_text(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |cause| Error::source(*cause));
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
