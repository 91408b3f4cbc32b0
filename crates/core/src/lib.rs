//! Pure translation: objects to resources, statuses and diagnostics.
