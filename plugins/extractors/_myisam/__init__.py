"""MyISAM tables read from their files, without a server: .frm says what the columns are, .MYD holds the rows.

Layout after mysql/mysql-server (sql/table.cc, storage/myisam/mi_open.c, mi_dynrec.c, myisamdef.h; read 2026-11-20), checked cell
for cell against tables that MariaDB 10.11 wrote. No maintained Python library reads .MYD.
"""

from __future__ import annotations

from forge.plugins.extractors._myisam.table import Table, open_table

__all__ = ["Table", "open_table"]
