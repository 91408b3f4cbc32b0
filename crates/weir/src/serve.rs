pub(crate) fn run(_o: &crate::cli::ServeOptions) -> anyhow::Result<std::process::ExitCode> { anyhow::bail!("x") }
