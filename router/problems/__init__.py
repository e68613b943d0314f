"""Problems become events of reserved sites, so that connections take them to any destination."""
