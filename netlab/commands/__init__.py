"""The commands of `lab`, one module a matter; each is imported when it is used."""
