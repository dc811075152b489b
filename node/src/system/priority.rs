//! How this process stands beside others of the machine.

use serde::Deserialize;

/// See the module's documentation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Priority {
    /// Others go first: this process takes what they leave.
    #[default]
    Background,
    /// As any other.
    Normal,
}

/// What `nice` calls it; 19 is the last that the system knows.
const BACKGROUND_NICE: libc::c_int = 10;

/// Steps back behind other processes, unless this one stands there already. All threads that start later do, too.
pub fn step_back() -> std::io::Result<()> {
    // SAFETY: both take and return plain numbers.
    unsafe {
        // An error (-1) is as good as any priority before that of the background.
        if libc::getpriority(libc::PRIO_PROCESS as _, 0) < BACKGROUND_NICE
            && libc::setpriority(libc::PRIO_PROCESS as _, 0, BACKGROUND_NICE) != 0
        {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok(())
}
