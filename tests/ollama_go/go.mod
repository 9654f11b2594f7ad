module ollamago

go 1.19
