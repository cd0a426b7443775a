<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{title}} – Kitchen</title>
<link rel="icon" href="data:,">
</head>
<body>
<nav><a href="/">Recipes</a></nav>
<h1>{{title}}</h1>
{{!base}}
</body>
</html>
