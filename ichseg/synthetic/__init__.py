"""Made-up data: phantoms, and hemorrhage implanted into real scans."""
